// Line editing with libedit where the build found it, plain reading elsewhere.
#include "ui/line_reader.h"

#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>

#include "ui/interrupt.h"
#include "ui/terminal.h"

#ifdef BB_HAVE_LIBEDIT
#include <histedit.h>
#endif

#include <sys/stat.h>

namespace bumblebee::cli {

std::filesystem::path default_history_path() {
  if (const char* state = std::getenv("XDG_STATE_HOME"); state && *state) {
    return std::filesystem::path(state) / "bumblebee" / "chat_history";
  }
  if (const char* home = std::getenv("HOME"); home && *home) {
    return std::filesystem::path(home) / ".local" / "state" / "bumblebee" / "chat_history";
  }
  return {};
}

namespace {

// Byte by byte, because stdio would restart or swallow a read that Ctrl-C interrupts.
ReadLine read_plain() {
  ReadLine out;
  for (;;) {
    char c = 0;
    ssize_t got = ::read(STDIN_FILENO, &c, 1);
    if (got == 1) {
      if (c == '\n') {
        out.status = ReadStatus::line;
        return out;
      }
      out.text += c;
    } else if (got == 0) {
      out.status = out.text.empty() ? ReadStatus::end : ReadStatus::line;
      return out;
    } else if (errno != EINTR || interrupt::requested()) {
      out.status = errno == EINTR ? ReadStatus::interrupted : ReadStatus::end;
      return out;
    }
  }
}

}  // namespace

#ifdef BB_HAVE_LIBEDIT

struct LineReader::Editor {
  EditLine* edit = nullptr;
  History* history = nullptr;
  HistEvent event{};
  std::filesystem::path path;
  std::string prompt;

  static char* show_prompt(EditLine* e) {
    void* self = nullptr;
    el_get(e, EL_CLIENTDATA, &self);
    return static_cast<Editor*>(self)->prompt.data();
  }

  // libedit retries an interrupted read once by itself; ours gives up at once, so that one Ctrl-C is enough.
  static int get_char(EditLine*, wchar_t* out) {
    std::mbstate_t state{};
    for (;;) {
      char byte = 0;
      ssize_t got = ::read(STDIN_FILENO, &byte, 1);
      if (got < 0 && errno == EINTR && !interrupt::requested()) continue;
      if (got <= 0) return got == 0 ? 0 : -1;
      size_t used = std::mbrtowc(out, &byte, 1, &state);
      if (used == size_t(-2)) continue;  // more bytes of this character follow
      if (used == size_t(-1)) {
        state = {};
        *out = L'?';
      }
      if (used == 0) *out = L'\0';
      return 1;
    }
  }

  explicit Editor(std::filesystem::path history_path) : path(std::move(history_path)) {
    std::setlocale(LC_CTYPE, "");
    edit = el_init("bumblebee", stdin, stdout, stderr);
    if (!edit) return;
    el_set(edit, EL_CLIENTDATA, this);
    el_set(edit, EL_PROMPT_ESC, &Editor::show_prompt, '\1');
    el_set(edit, EL_EDITOR, "emacs");
    el_wset(edit, EL_GETCFN, &Editor::get_char);
    history = history_init();
    if (!history) return;
    ::history(history, &event, H_SETSIZE, 1000);
    ::history(history, &event, H_SETUNIQUE, 1);
    el_set(edit, EL_HIST, ::history, history);
    if (!path.empty()) ::history(history, &event, H_LOAD, path.c_str());
  }

  ~Editor() {
    if (history && !path.empty()) {
      std::error_code ignored;  // a home that cannot be written costs the history, nothing else
      std::filesystem::create_directories(path.parent_path(), ignored);
      mode_t before = ::umask(0077);
      ::history(history, &event, H_SAVE, path.c_str());
      ::umask(before);
    }
    if (edit) el_end(edit);
    if (history) history_end(history);
  }

  ReadLine read(const std::string& text) {
    prompt = text;
    int count = 0;
    const char* got = el_gets(edit, &count);
    if (!got || count <= 0) {
      bool stopped = interrupt::requested();
      el_reset(edit);
      return {stopped ? ReadStatus::interrupted : ReadStatus::end, {}};
    }
    std::string line(got, size_t(count));
    if (line.back() == '\n') line.pop_back();
    return {ReadStatus::line, std::move(line)};
  }
};

#else

struct LineReader::Editor {
  explicit Editor(const std::filesystem::path&) {}
  ReadLine read(const std::string& prompt) {
    write_out(prompt);
    return read_plain();
  }
};

#endif

LineReader::LineReader(std::filesystem::path history)
    : interactive_(::isatty(STDIN_FILENO) == 1 && is_terminal(stdout)) {
  if (interactive_) editor_ = std::make_unique<Editor>(std::move(history));
}

LineReader::~LineReader() = default;

ReadLine LineReader::read(const std::string& prompt) {
  ReadLine out = editor_ ? editor_->read(prompt) : read_plain();
  if (!out.text.empty() && out.text.back() == '\r') out.text.pop_back();
  return out;
}

void LineReader::remember(const std::string& entry) {
#ifdef BB_HAVE_LIBEDIT
  if (editor_ && editor_->history && !entry.empty()) history(editor_->history, &editor_->event, H_ENTER, entry.c_str());
#else
  static_cast<void>(entry);
#endif
}

}  // namespace bumblebee::cli

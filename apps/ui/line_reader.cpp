// Line editing with libedit where the build found it, plain reading elsewhere.
#include "ui/line_reader.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <cerrno>
#include <clocale>
#include <cstdio>
#include <cstdlib>
#include <string_view>

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
    if (!interrupt::wait_readable(STDIN_FILENO)) {
      out.status = ReadStatus::interrupted;
      return out;
    }
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
    } else if (errno != EINTR) {
      out.status = ReadStatus::end;
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
  int typed_ahead = 0;  // bytes that came before the prompt, when the keys were the terminal's own

  static Editor& of(EditLine* e) {
    void* self = nullptr;
    el_get(e, EL_CLIENTDATA, &self);
    return *static_cast<Editor*>(self);
  }
  static char* show_prompt(EditLine* e) { return of(e).prompt.data(); }

  // What is pasted comes between two marks, where the terminal was asked for them: as one text with its line ends,
  // which are no Enter. It stands in the line as it is.
  static unsigned char paste(EditLine* e, wint_t) {
    constexpr std::wstring_view kEnd = L"\033[201~";
    std::wstring text;
    while (!text.ends_with(kEnd)) {
      wchar_t c = 0;
      if (get_char(e, &c) != 1) return CC_EOF;
      text += c;
    }
    text.resize(text.size() - kEnd.size());
    std::wstring kept;
    for (size_t i = 0; i < text.size(); ++i) {
      if (text[i] == L'\r') {  // terminals send Enter's byte for a line end
        kept += L'\n';
        if (i + 1 < text.size() && text[i + 1] == L'\n') ++i;
      } else if (text[i] >= 0x20 ? text[i] < 0x7f || text[i] >= 0xa0 : text[i] == L'\n' || text[i] == L'\t') {
        kept += text[i];
      }
    }
    while (kept.ends_with(L'\n')) kept.pop_back();
    if (!kept.empty() && el_winsertstr(e, kept.c_str()) != 0) return CC_ERROR;
    return CC_REFRESH;
  }

  // libedit retries an interrupted read once by itself; ours gives up at once, so that one Ctrl-C is enough.
  static int get_char(EditLine* e, wchar_t* out) {
    Editor& self = of(e);
    std::mbstate_t state{};
    for (;;) {
      if (!interrupt::wait_readable(STDIN_FILENO)) return -1;
      char byte = 0;
      ssize_t got = ::read(STDIN_FILENO, &byte, 1);
      if (got < 0 && errno == EINTR) continue;
      if (got <= 0) return got == 0 ? 0 : -1;
      const bool before_prompt = self.typed_ahead > 0;
      if (before_prompt) --self.typed_ahead;
      if (before_prompt && byte == '\0') byte = '\4';
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
    // The line is drawn where a person sees it, also in `chat | tee log`.
    edit = el_init("bumblebee", stdin, is_terminal(stdout) ? stdout : stderr, stderr);
    if (!edit) return;
    el_set(edit, EL_CLIENTDATA, this);
    el_set(edit, EL_PROMPT_ESC, &Editor::show_prompt, '\1');
    el_set(edit, EL_EDITOR, "emacs");
    el_wset(edit, EL_GETCFN, &Editor::get_char);
    el_wset(edit, EL_ADDFN, L"bumblebee-paste", L"Insert what is pasted", &Editor::paste);
    constexpr const char* kKeys[][2] = {{"\\e[200~", "bumblebee-paste"}, {"\\e[1;5C", "em-next-word"},
                                        {"\\e[1;5D", "ed-prev-word"},    {"\\e[1;3C", "em-next-word"},
                                        {"\\e[1;3D", "ed-prev-word"},    {"\\e[5~", "ed-prev-history"},
                                        {"\\e[6~", "ed-next-history"},   {"\\e[3~", "ed-delete-next-char"},
                                        {"\\ex", "ed-unassigned"},       {"^@", "em-set-mark"}};
    for (const auto& [key, action] : kKeys) el_set(edit, EL_BIND, key, action, nullptr);
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

  static void marks_pastes(bool on) {
    std::FILE* out = is_terminal(stdout) ? stdout : stderr;
    std::fputs(on ? "\033[?2004h" : "\033[?2004l", out);
    std::fflush(out);
  }

  ReadLine read(const std::string& text) {
    prompt = text;
    int count = 0;
    marks_pastes(true);
    // Before the prompt shows, or what is typed at once would still be the terminal's. It keeps a Ctrl-D as a NUL.
    el_set(edit, EL_PREP_TERM, 1);
    if (::ioctl(STDIN_FILENO, FIONREAD, &typed_ahead) != 0) typed_ahead = 0;
    const char* got = el_gets(edit, &count);
    marks_pastes(false);
    if (!got || count <= 0) {
      const LineInfo* line = el_line(edit);
      std::string dropped(line->buffer, size_t(line->lastchar - line->buffer));
      el_reset(edit);
      return {interrupt::requested() ? ReadStatus::interrupted : ReadStatus::end, std::move(dropped)};
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
    std::fputs(prompt.c_str(), stderr);
    return read_plain();
  }
};

#endif

LineReader::LineReader(std::filesystem::path history)
    : interactive_(::isatty(STDIN_FILENO) == 1 && (is_terminal(stdout) || is_terminal(stderr))) {
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

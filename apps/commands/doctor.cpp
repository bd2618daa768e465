// `doctor`: what this machine offers and what the program makes of it. The first thing to attach to a bug report.
#include <sys/utsname.h>

#include <cstdio>

#include "bumblebee/bumblebee.h"
#include "commands/commands.h"
#include "options/validators.h"
#include "ui/cpu_features.h"
#include "ui/exit_codes.h"
#include "ui/json_out.h"
#include "ui/terminal.h"

namespace bumblebee::cli {

namespace {

struct DoctorFlags {
  CommonFlags common;
  int threads = 0;
  bool no_bandwidth = false;
};

std::string operating_system() {
  utsname name{};
  if (::uname(&name) != 0) return "unknown";
  return std::string(name.sysname) + " " + name.release + " " + name.machine;
}

std::string joined(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out.empty() ? "none" : out;
}

void row(const char* name, const std::string& value) {
  char start[32];
  std::snprintf(start, sizeof start, "%-18s ", name);
  write_out(start + value + "\n");
}

void print_as_json(const std::vector<DeviceInfo>& found, double bandwidth) {
  OutJson features = OutJson::object();
  for (const auto& [name, present] : cpu_features()) features[name] = present;
  OutJson list = OutJson::array();
  for (const DeviceInfo& device : found) {
    list.push_back({{"name", device.name},
                    {"description", device.description},
                    {"kernels", device.kernels},
                    {"kernels_available", device.kernels_available},
                    {"threads", device.threads},
                    {"memory_bytes", device.memory_bytes}});
  }
  OutJson out = {{"version", version()}, {"system", operating_system()}, {"cpu_features", features}, {"devices", list}};
  out["memory_bandwidth_bytes_per_s"] = bandwidth > 0 ? OutJson(bandwidth) : OutJson(nullptr);
  print_json(out);
}

void print_as_text(const std::vector<DeviceInfo>& found, double bandwidth) {
  row("bumblebee", version());
  row("system", operating_system());
  std::vector<std::string> present, absent;
  for (const auto& [name, is_there] : cpu_features()) (is_there ? present : absent).push_back(name);
  row("cpu features", joined(present));
  row("not there", joined(absent));
  for (const DeviceInfo& device : found) {
    row("device", device.name + ": " + device.description);
    row("  kernels", device.kernels + " (available: " + joined(device.kernels_available) + ")");
    row("  threads", std::to_string(device.threads));
    row("  memory", human_bytes(double(device.memory_bytes)));
  }
  if (bandwidth > 0) {
    row("memory bandwidth", human_bytes(bandwidth) + "/s read");
    row("", "A model whose weights take 1 GB decodes at most " + std::to_string(int(bandwidth / 1e9)) +
                " tokens per second here.");
  }
}

int run(const DoctorFlags& flags) {
  std::vector<DeviceInfo> found = devices();
  double bandwidth = flags.no_bandwidth ? 0 : measure_read_bandwidth(flags.threads);
  if (flags.common.json) {
    print_as_json(found, bandwidth);
  } else {
    print_as_text(found, bandwidth);
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_doctor(CLI::App& app, Session& session) {
  auto flags = std::make_shared<DoctorFlags>();
  CLI::App* verb = add_verb(app, {"doctor", "Show what this machine offers: kernels, memory, bandwidth"});
  verb->add_option("-t,--threads", flags->threads, "Threads that measure the bandwidth (default 0: one per core)")
      ->option_text("N")
      ->check(integer_between(0, 1024));
  verb->add_flag("--no-bandwidth", flags->no_bandwidth, "Do not measure the memory bandwidth (takes about a second)");
  verb->footer("Example:\n  bumblebee doctor --json");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli

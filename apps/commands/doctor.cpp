// `doctor`: what this machine offers and what the program makes of it. The first thing to attach to a bug report.
#include <fmt/core.h>

#include <sys/utsname.h>

#include <cstdio>

#include "bumblebee/bumblebee.h"
#include "commands/commands.h"
#include "options/model_flags.h"
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
  std::string pin = "auto";
  bool no_bandwidth = false;
};

std::string operating_system() {
  utsname name{};
  if (::uname(&name) != 0) return "unknown";
  return std::string(name.sysname) + " " + name.release + " " + name.machine;
}

std::string list_of(const std::vector<std::string>& words) {
  std::string out;
  for (const std::string& word : words) out += (out.empty() ? "" : " ") + word;
  return out.empty() ? "none" : out;
}

void row(const char* name, const std::string& value) { write_out(fmt::format("{:18} {}\n", name, value)); }

/// "0-3,8"
std::string ranges(const std::vector<int>& sorted) {
  std::string out;
  for (size_t i = 0; i < sorted.size();) {
    size_t end = i + 1;
    while (end < sorted.size() && sorted[end] == sorted[end - 1] + 1) ++end;
    out += (out.empty() ? "" : ",") + std::to_string(sorted[i]);
    if (end - i > 1) out += "-" + std::to_string(sorted[end - 1]);
    i = end;
  }
  return out;
}

std::string quota_of(const ThreadingInfo& threads) {
  return threads.cpu_quota > 0 ? fmt::format("a quota of {:.2f} CPUs", threads.cpu_quota) : "no quota";
}

OutJson as_json(const ThreadingInfo& threads) {
  OutJson nodes = OutJson::array();
  for (const ThreadingInfo::Node& node : threads.nodes)
    nodes.push_back({{"node", node.id}, {"cpus", node.cpus}, {"cores", node.cores}, {"threads", node.threads}});
  return {{"threads", threads.threads},
          {"cores", threads.cores},
          {"cpus", threads.cpus},
          {"cpu_quota", threads.cpu_quota > 0 ? OutJson(threads.cpu_quota) : OutJson(nullptr)},
          {"nodes", nodes},
          {"pinning", threads.pinning},
          {"placement", threads.placement}};
}

void print_threads(const ThreadingInfo& threads) {
  row("threads", std::to_string(threads.threads) + " of " + std::to_string(threads.cores) + " cores, " +
                     std::to_string(threads.cpus) + " CPUs, " + quota_of(threads));
  for (const ThreadingInfo::Node& node : threads.nodes) {
    row(("  node " + std::to_string(node.id)).c_str(), "CPUs " + ranges(node.cpus) + ", " + std::to_string(node.cores) +
                                                           " cores, " + std::to_string(node.threads) + " threads");
  }
  row("  pinning", threads.pinning);
  row("  placement", threads.placement);
}

void print_as_json(const std::vector<DeviceInfo>& found, const ThreadingInfo& threads, double bandwidth) {
  OutJson features = OutJson::object();
  for (const auto& [name, present] : cpu_features()) features[name] = present;
  OutJson list = OutJson::array();
  for (const DeviceInfo& device : found) {
    list.push_back({{"name", device.name},
                    {"description", device.description},
                    {"kernels", device.kernels},
                    {"kernels_available", device.kernels_available},
                    {"threads", device.threads},
                    {"memory_bytes", device.memory_bytes},
                    {"free_bytes", device.free_bytes}});
  }
  OutJson missing = OutJson::object();
  for (const AbsentDevice& device : absent_devices()) missing[device.name] = device.reason;
  OutJson out = {{"version", version()},
                 {"system", operating_system()},
                 {"cpu_features", features},
                 {"devices", list},
                 {"absent_devices", missing}};
  out["threading"] = as_json(threads);
  out["memory_bandwidth_bytes_per_s"] = bandwidth > 0 ? OutJson(bandwidth) : OutJson(nullptr);
  print_json(out);
}

void print_as_text(const std::vector<DeviceInfo>& found, const ThreadingInfo& threads, double bandwidth) {
  row("bumblebee", version());
  row("system", operating_system());
  std::vector<std::string> present, absent;
  for (const auto& [name, is_there] : cpu_features()) (is_there ? present : absent).push_back(name);
  row("cpu features", list_of(present));
  row("not there", list_of(absent));
  for (const DeviceInfo& device : found) {
    row("device", device.name + ": " + device.description);
    row("  kernels", device.kernels + " (available: " + list_of(device.kernels_available) + ")");
    row("  threads", std::to_string(device.threads));
    row("  memory", human_bytes(double(device.memory_bytes)) + ", " + human_bytes(double(device.free_bytes)) + " free");
  }
  for (const AbsentDevice& device : absent_devices()) row("no device", device.name + ": " + device.reason);
  print_threads(threads);
  if (bandwidth > 0) {
    row("memory bandwidth", human_bytes(bandwidth) + "/s read");
    row("", "A model whose weights take 1 GB decodes at most " + std::to_string(int(bandwidth / 1e9)) +
                " tokens per second here.");
  }
}

int run(const DoctorFlags& flags) {
  std::vector<DeviceInfo> found = devices();
  ThreadingInfo threads = threading(flags.threads, pinning_from(flags.pin));
  double bandwidth = flags.no_bandwidth ? 0 : measure_read_bandwidth(flags.threads);
  if (flags.common.json) {
    print_as_json(found, threads, bandwidth);
  } else {
    print_as_text(found, threads, bandwidth);
  }
  return int(ExitCode::ok);
}

}  // namespace

void add_doctor(Parser& app, Session& session) {
  auto flags = std::make_shared<DoctorFlags>();
  Parser* verb = add_verb(app, {"doctor", "Show what this machine offers: kernels, memory, bandwidth"});
  verb->add_option("-t,--threads", flags->threads,
                   "Threads to plan and to measure the bandwidth with (default 0: one per core)")
      ->option_text("N")
      ->check(integer_between(0, 1024));
  add_pin_flag(*verb, flags->pin);
  verb->add_flag("--no-bandwidth", flags->no_bandwidth, "Do not measure the memory bandwidth (takes about a second)");
  verb->footer("Example:\n  bumblebee doctor --json");
  on_chosen(*verb, session, flags, run);
}

}  // namespace bumblebee::cli

// Drives mock_hub.py: starts it once for the test program, gives it commands, and asks what requests came.
#pragma once

#include <nlohmann/json.hpp>

#include <filesystem>
#include <map>
#include <string>
#include <vector>

namespace bumblebee::hub_test {

/// A request that the mock got.
struct Request {
  std::string where;                           // "hub", "cdn" or "proxy"
  std::string method;                          // "GET", "HEAD", "CONNECT"
  std::string target;                          // as sent
  std::string path;                            // decoded, without the query
  std::map<std::string, std::string> headers;  // names in lower case
  int status = 0;
  uint64_t sent = 0;  // bytes of the body
  double at = 0;      // seconds of a clock that only goes forward

  bool has(const std::string& header) const { return headers.contains(header); }
};

class MockHub {
 public:
  MockHub();
  ~MockHub();
  MockHub(const MockHub&) = delete;
  MockHub& operator=(const MockHub&) = delete;

  /// Runs one command; its answer. Fails the test when the mock calls it an error.
  nlohmann::json command(const nlohmann::json& order);
  /// Adds a rule; mock_faults.py lists its fields.
  void fault(nlohmann::json rule);
  /// Sets attributes of a repository.
  void repository(const std::string& id, nlohmann::json attributes);
  /// What came since the last clear, where the glob-free filters fit ("" fits everything).
  std::vector<Request> requests(const std::string& where = "", const std::string& method = "",
                                const std::string& path_holds = "");

  std::string hub, cdn, proxy;  // origins: http://host:port

 private:
  std::string read_line();
  int to_ = -1, from_ = -1, pid_ = -1;
  std::string rest_;
};

/// The one of this program; started by the first call.
MockHub& mock();

}  // namespace bumblebee::hub_test

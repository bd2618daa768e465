// Answers that are no success: what may pass is repeated, the rest is told in words, with what the user can do.
#include <memory>

#include "tests/hub/program/hub_test.h"

namespace bumblebee::hub_test {
namespace {

class Status : public HubTest {};

struct Place {
  const char* name;
  const char* where;
  const char* path;  // of the repository org/<name><status>
};
const Place kPlaces[] = {{"revision", "hub", "/api/models/org/@/revision/*"},
                         {"tree", "hub", "/api/models/org/@/tree/*"},
                         {"resolve", "hub", "/org/@/resolve/*"},
                         {"cdn", "cdn", "/repos/org/@/*"}};
const int kPassing[] = {408, 429, 500, 502, 503, 504};
const int kFinal[] = {400, 401, 403, 404, 405, 409, 410, 418, 422, 451, 501};

/// One repository for each place and status, so that all runs can go side by side.
class StatusTable : public HubTest {
 protected:
  struct Case {
    std::string name;
    int status;
    Commit commit;
    std::unique_ptr<Process> process;
  };
  void start(const Place& place, int status, nlohmann::json rule) {
    const std::string name = place.name + std::to_string(status);
    Case one{name, status, publish({{"config.json", "{}"}, {"model.safetensors", noise(1000, 5)}}, "org/" + name),
             nullptr};
    std::string path = place.path;
    path.replace(path.find('@'), 1, name);
    rule.update({{"where", place.where}, {"path", path}, {"status", status}});
    mock().fault(rule);
    one.process = std::make_unique<Process>(launch({"pull", "org/" + name}));
    cases_.push_back(std::move(one));
  }
  std::vector<Case> cases_;
};

TEST_F(StatusTable, PassingStatusesOnceAreRepeated) {
  for (const Place& place : kPlaces)
    for (int status : kPassing) start(place, status, {{"times", 2}});
  for (Case& one : cases_) {
    SCOPED_TRACE(one.name);
    const Outcome got = one.process->wait();
    EXPECT_EQ(got.status, 0) << got.err;
    expect_complete(one.commit);
  }
  expect_sound();
}

TEST_F(StatusTable, PassingStatusesForEverAreErrorsWithTheStatus) {
  for (const Place& place : kPlaces)
    for (int status : kPassing) start(place, status, nlohmann::json::object());
  for (Case& one : cases_) {
    SCOPED_TRACE(one.name);
    expect_error(one.process->wait(),
                 {"org/" + one.name, one.status == 429 ? "too many requests" : std::to_string(one.status)});
    expect_absent(one.commit, "model.safetensors");
  }
  expect_sound();
}

TEST_F(StatusTable, FinalStatusesAreErrorsAtOnce) {
  for (const Place& place : kPlaces)
    for (int status : kFinal) start(place, status, nlohmann::json::object());
  for (Case& one : cases_) {
    SCOPED_TRACE(one.name);
    expect_error(one.process->wait(), {"org/" + one.name});
    expect_absent(one.commit, "model.safetensors");
  }
  expect_sound();
  for (const Case& one : cases_) {
    std::map<std::string, int> refused;
    for (const Request& request : mock().requests("", "", "org/" + one.name + "/"))
      if (request.status == one.status) ++refused[request.target];
    // A signed address may have expired, so a content server's 403 is worth another one.
    for (const auto& [target, times] : refused) EXPECT_LE(times, one.name == "cdn403" ? 6 : 1) << target;
  }
}

TEST_F(StatusTable, StatusesThatAreNoneOfHttps) {
  for (const Place& place : kPlaces)
    for (int status : {204, 205, 206, 226, 299, 300, 304, 305, 600, 999})
      start(place, status, nlohmann::json::object());
  for (Case& one : cases_) {
    SCOPED_TRACE(one.name);
    expect_error(one.process->wait(), {});
    expect_absent(one.commit, "model.safetensors");
  }
  expect_sound();
}

TEST_F(Status, RetryAfterIsObeyed) {
  const Commit commit = publish(small_model());
  mock().fault({{"where", "cdn"}, {"status", 429}, {"headers", {{"Retry-After", "1"}}}, {"times", 1}});
  pull();
  expect_complete(commit);
  std::vector<Request> seen;
  for (const Request& request : mock().requests("cdn", "GET", commit["model.safetensors"].etag))
    seen.push_back(request);
  const std::vector<Request> other = mock().requests("cdn", "GET");
  double refused = 0, after = 0;
  for (const Request& request : other)
    if (request.status == 429) refused = request.at;
  for (const Request& request : other)
    if (request.at > refused && request.status == 200) after = std::max(after, request.at);
  EXPECT_GE(after - refused, 0.9);
}

TEST_F(Status, RetryAfterOfADayIsAnError) {
  const Commit commit = publish(small_model());
  mock().fault({{"where", "cdn"}, {"status", 429}, {"headers", {{"Retry-After", "86400"}}}});
  expect_error(pull_fails(), {"too many requests", "86400"});
  expect_absent(commit, "model.safetensors");
}

TEST_F(Status, RetryAfterThatMeansNothing) {
  const Commit commit = publish(small_model());
  for (const char* text : {"soon", "-5", "", "99999999999999999999999", "1e99", "Wed, 21 Oct 2015 07:28:00 GMT"}) {
    SCOPED_TRACE(text);
    mock().command({{"op", "clear"}});
    mock().fault({{"where", "hub"},
                  {"path", "*/revision/*"},
                  {"status", 429},
                  {"headers", {{"Retry-After", text}}},
                  {"times", 1}});
    const Outcome got = run({"pull", "org/name"});
    expect_sound();
    if (got.status != 0) expect_error(got, {"too many requests"});
  }
  pull();
  expect_complete(commit);
}

TEST_F(Status, NoSuchRepository) {
  // As the Hub has it: without a token, what does not exist cannot be told from what is private.
  expect_error(pull_fails("org/none"), {"org/none", "HF_TOKEN"});
  expect_error(pull_fails("org/none", {{"HF_TOKEN", kToken}}), {"org/none", "no repository", "token"});
}

TEST_F(Status, NoSuchRevision) {
  publish(small_model());
  expect_error(pull_fails("org/name@v9"), {"org/name", "v9", "revision"});
  expect_error(pull_fails("org/name@" + std::string(40, 'a')), {"org/name", std::string(40, 'a')});
  expect_error(pull_fails("org/name@refs/pr/7"), {"refs/pr/7"});
}

TEST_F(Status, AFileThatIsListedButNotThere) {
  const Commit commit = publish(small_model());
  mock().fault({{"path", "*/resolve/*/config.json"}, {"status", 404}, {"error_code", "EntryNotFound"}});
  expect_error(pull_fails(), {"org/name", "config.json"});
  expect_absent(commit, "config.json");
}

TEST_F(Status, GatedWithoutTokenTellsWhereToAccept) {
  const Commit commit = publish(small_model());
  mock().repository("org/name", {{"gated", true}});
  expect_error(pull_fails(), {"gated", "/org/name", "HF_TOKEN"});
  expect_absent(commit, "model.safetensors");
}

TEST_F(Status, GatedAndNotAccepted) {
  publish(small_model());
  mock().command({{"op", "token"}, {"token", kToken}});
  mock().repository("org/name", {{"gated", true}, {"accepted", false}});
  const Outcome got = pull_fails("org/name", {{"HF_TOKEN", kToken}});
  expect_error(got, {"gated", "/org/name", "accept"});
  EXPECT_EQ((got.out + got.err).find(kToken), std::string::npos);
}

TEST_F(Status, GatedAndAccepted) {
  const Commit commit = publish(small_model());
  mock().command({{"op", "token"}, {"token", kToken}});
  mock().repository("org/name", {{"gated", true}});
  pull("org/name", {{"HF_TOKEN", kToken}});
  expect_complete(commit);
}

TEST_F(Status, PrivateRepositories) {
  const Commit commit = publish(small_model());
  mock().command({{"op", "token"}, {"token", kToken}});
  mock().repository("org/name", {{"private", true}});
  expect_error(pull_fails(), {"org/name", "HF_TOKEN"});
  pull("org/name", {{"HF_TOKEN", kToken}});
  expect_complete(commit);
}

TEST_F(Status, ATokenThatIsNotValid) {
  publish(small_model());
  mock().command({{"op", "token"}, {"token", kToken}});
  const Outcome got = pull_fails("org/name", {{"HF_TOKEN", "hf_wrongWRONGwrong"}});
  expect_error(got, {"token"});
  EXPECT_EQ((got.out + got.err).find("hf_wrongWRONGwrong"), std::string::npos);
}

TEST_F(Status, TheHubIsDown) {
  publish(small_model());
  for (const char* endpoint : {"http://127.0.0.1:1", "http://no-such-host.invalid"})
    expect_error(pull_fails("org/name", {{"HF_ENDPOINT", endpoint}}), {"org/name"});
}

TEST_F(Status, ConnectionsThatCloseWithoutAnswer) {
  const Commit commit = publish(small_model());
  mock().fault({{"drop", true}, {"times", 3}});
  mock().fault({{"drop", "reset"}, {"skip", 3}, {"times", 2}});
  pull();
  expect_complete(commit);
}

TEST_F(Status, AnApiThatNeverAnswers) {
  publish(small_model());
  mock().fault({{"where", "hub"}, {"delay", 60}});
  expect_error(pull_fails("org/name", {{"HF_HUB_ETAG_TIMEOUT", "0.2"}}), {"org/name"});
}

TEST_F(Status, ServersThatAreNoHub) {
  publish(small_model());
  for (const char* body : {"", "<html>hello</html>", "null", "[]", "{}", "{\"sha\": 5}", "{\"sha\": \"main\"}",
                           "{\"sha\": \"../../../../../../../../etc/passwd/aaaaaaaaa\"}",
                           "{\"sha\": \"ABCDEFABCDEFABCDEFABCDEFABCDEFABCDEFABCD\"}"}) {
    SCOPED_TRACE(body);
    mock().command({{"op", "clear"}});
    mock().fault({{"where", "hub"}, {"path", "*/revision/*"}, {"json", body}});
    expect_error(pull_fails(), {"org/name"});
  }
}

TEST_F(Status, AnAnswerOfTheApiThatNeverEnds) {
  publish(small_model());
  mock().fault({{"where", "hub"}, {"path", "*/revision/*"}, {"no_length", true}, {"fill", 100 << 20}});
  expect_error(pull_fails(), {"org/name"});
}

}  // namespace
}  // namespace bumblebee::hub_test

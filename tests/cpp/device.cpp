// What mcar_edge_build does around TensorRT, with stand-ins for the plans:
//   device layers < INSPECTOR.json
//   device bundle BUNDLE OUT BATCH [fail|only|only-8.5]    (BATCH 0: as BUNDLE has it)
//   device child OUT answer|throw|no-plan|exit|abort|kill|hang    (what the process that builds a plan may do)
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <iostream>
#include <iterator>

#include "arguments.h"
#include "child.h"
#include "edge/engine.hpp"
#include "files.h"
#include "layers.h"
#include "rebundle.h"

namespace {

using namespace edge::tools;
using nlohmann::json;

void write_device_bundle(const std::string& from, const std::string& out, long batch, const std::string& how) {
    const Source source = read_source(from);
    const Sizes sizes =
        choose_sizes(source, batch ? std::optional(batch) : std::nullopt, how.rfind("only", 0) == 0, how != "only-8.5");
    NewFolder folder(out, false);
    json engine{{"plugin", nullptr}, {"machine", {{"version", "8.6.0"}, {"compute_capability", "9.0"}}}};
    for (const Stage& stage : copy_files(source, sizes, folder.path())) {
        write_file(folder.path() / plan_file(stage.name), "plan of " + stage.name);
        json facts{{"payload", plan_file(stage.name)}, {"plan_bytes", 8 + stage.name.size()}};
        facts["profiles"] = stage.profiles;
        facts["needs_plugin"] = needs_plugin(stage);
        if (stage.name.empty())
            engine.update(facts);
        else
            engine["stages"][stage.name] = facts;
    }
    if (how == "fail") throw edge::Error("backend", "The builder made no plan", "Report the graph");
    write_manifest(source, sizes, engine, "a GPU", {{"tensorrt", "8.6.0"}}, folder.path());
    folder.keep();
}

void end_so(const std::string& out, const std::string& how) {
    NewFolder folder(out, false);
    const Answer answer = in_child([&]() -> json {
        std::cout << "some words" << std::endl << "the last words" << std::endl << std::endl;
        if (how == "throw") throw edge::Error("backend", "It failed", "Try again");
        if (how == "no-plan") throw NoPlan("no plan");
        if (how == "exit") _exit(3);
        if (how == "abort") std::abort();
        if (how == "kill") raise(SIGKILL);
        if (how == "hang") write_file(folder.path() / "started", ""), pause();
        return {{"words", how}};
    });
    std::cout << json{{"facts", answer.facts}, {"gave_up", answer.gave_up}, {"killed", answer.killed}} << '\n';
    answer.require();
}

}  // namespace

int main(int count, char** words) {
    const std::string mode = words[1];
    catch_signals();
    return run([&] {
        if (mode == "child") {
            end_so(words[2], words[3]);
        } else if (mode == "layers") {
            const std::string told{std::istreambuf_iterator<char>(std::cin), {}};
            std::cout << layer_facts(told) << '\n';
        } else {
            write_device_bundle(words[2], words[3], std::stol(words[4]), count > 5 ? words[5] : "");
        }
    });
}

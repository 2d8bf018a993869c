#include "child.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>

#include "arguments.h"
#include "edge/engine.hpp"

namespace edge::tools {
namespace {

using nlohmann::json;

constexpr int SIGNALS[] = {SIGINT, SIGTERM, SIGHUP};
volatile std::sig_atomic_t interrupted = 0;

void write_whole(int file, const std::string& text) {
    for (std::size_t at = 0; at < text.size();) {
        const ssize_t count = write(file, text.data() + at, text.size() - at);
        if (count <= 0) return;
        at += static_cast<std::size_t>(count);
    }
}

[[noreturn]] void work_here(const std::function<json()>& work, int answers, int said) {
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (const int each : SIGNALS) std::signal(each, SIG_DFL);
    dup2(said, STDOUT_FILENO), dup2(said, STDERR_FILENO);
    json answer;
    try {
        answer["facts"] = work();
    } catch (const NoPlan& error) {
        answer = {{"error", error.what()}, {"gave_up", true}};
    } catch (const std::exception& error) {
        answer = {{"error", error.what()}, {"gave_up", false}};
    }
    write_whole(answers, answer.dump(-1, ' ', false, json::error_handler_t::replace));
    _exit(0);  // a library that fails while it unloads must not spoil a good plan
}

// Up to the end of the other side; kills it where we are asked to stop.
std::string read_whole(int file, pid_t child) {
    std::string text;
    char block[4096];
    for (;;) {
        struct pollfd ready{file, POLLIN, 0};
        const int found = poll(&ready, 1, 500);
        if (interrupted) {
            kill(child, SIGKILL);
            waitpid(child, nullptr, 0);
            close(file);
            throw Interrupted();
        }
        if (found <= 0) continue;
        const ssize_t count = read(file, block, sizeof block);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return text;
        text.append(block, static_cast<std::size_t>(count));
    }
}

// The last line that holds something, of what was printed.
std::string last_line(int said) {
    std::string text(4096, '\0');
    const off_t end = lseek(said, 0, SEEK_END);
    const ssize_t count = pread(said, text.data(), text.size(), std::max<off_t>(0, end - 4096));
    text.resize(count < 0 ? 0 : static_cast<std::size_t>(count));
    text.erase(text.find_last_not_of(" \r\n") + 1);
    return text.substr(text.find_last_of('\n') + 1).substr(0, 200);
}

}  // namespace

const json& Answer::require() const {
    if (!error.empty()) throw std::runtime_error(error);
    return facts;
}

void catch_signals() {
    struct sigaction kept{};
    kept.sa_handler = [](int) { interrupted = 1; };
    kept.sa_flags = SA_RESETHAND;  // a second one ends us at once
    for (const int each : SIGNALS) sigaction(each, &kept, nullptr);
}

void check_interrupted() {
    if (interrupted) throw Interrupted();
}

Answer in_child(const std::function<json()>& work) {
    check_interrupted();
    int ends[2];
    const int said = memfd_create("edge-said", MFD_CLOEXEC);
    if (said < 0 || pipe2(ends, O_CLOEXEC) != 0)
        throw Error("build", std::string("Cannot start a process: ") + std::strerror(errno), "Close other programs");
    const pid_t child = fork();
    if (child == 0) {
        close(ends[0]);
        work_here(work, ends[1], said);
    }
    close(ends[1]);
    if (child < 0) {
        close(ends[0]), close(said);
        throw Error("build", std::string("Cannot start a process: ") + std::strerror(errno), "Close other programs");
    }
    const std::string text = read_whole(ends[0], child);
    close(ends[0]);
    int status = 0;
    while (waitpid(child, &status, 0) < 0 && errno == EINTR) continue;
    const std::string last = last_line(said);
    close(said);
    check_interrupted();
    const json told = json::parse(text, nullptr, false);
    if (told.is_object())
        return {told.value("facts", json()), told.value("error", ""), told.value("gave_up", false), false};
    const bool killed = WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL;
    const std::string end = WIFSIGNALED(status) ? std::string(strsignal(WTERMSIG(status)))
                                                : "exit code " + std::to_string(WEXITSTATUS(status));
    const Error error(
        "backend",
        "The process that built the engine ended with " + end + (killed ? ", as for want of memory" : "") +
            (last.empty() ? "" : ": " + last),
        killed ? "Close other programs, or build with a smaller --batch" : "Report the graph with these words");
    return {json(), error.what(), false, killed};
}

}  // namespace edge::tools

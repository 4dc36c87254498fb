// CUDA kernels on the host, from their own text: every CUDA thread is a fiber, or a thread where a sanitizer looks for races.
//
// Blocks run one after the other. Shared memory has exactly the size that the launch asks for and is full of NaN (0xff) before
// each block, so that what is read before it is written shows in the result. Fibers are resumed once between two barriers, in
// ascending, descending or seeded random order: a result that depends on the order lacks a barrier.

#pragma once

#include <algorithm>
#include <barrier>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <ucontext.h>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __syncthreads() cuda_host::me->wait()
#define threadIdx (cuda_host::me->thread)
#define blockIdx (cuda_host::me->block)
#define gridDim (cuda_host::me->grid)
#define KRON_SHARED(T, name) T* const name = reinterpret_cast<T*>(cuda_host::me->shared)

namespace cuda_host {

struct Dim {
    unsigned x, y, z;
};

struct Launch {
    std::int64_t grid, block, shared_bytes, order, seed;
};

enum Order { ASCENDING, DESCENDING, RANDOM, THREADS };

struct Context {
    Dim thread{}, block{}, grid{};
    unsigned char* shared = nullptr;

    virtual void wait() = 0;
    virtual ~Context() = default;
};

inline thread_local Context* me = nullptr;

// Fibers ---------------------------------------------------------------------------------------------------------------

struct Fiber : Context {
    static constexpr std::size_t STACK = 256 * 1024;
    enum State { RUNNING, WAITING, FINISHED } state = RUNNING;
    ucontext_t here{}, *scheduler = nullptr;
    std::unique_ptr<char[]> stack{new char[STACK]};
    void (*body)(void*) = nullptr;
    void* argument = nullptr;

    void wait() override {
        state = WAITING;
        swapcontext(&here, scheduler);
    }

    static void enter(unsigned low, unsigned high) {
        auto* fiber = reinterpret_cast<Fiber*>(std::uintptr_t{low} | std::uintptr_t{high} << 32);
        fiber->body(fiber->argument);
        fiber->state = FINISHED;
        swapcontext(&fiber->here, fiber->scheduler);
    }

    void start(ucontext_t* from, void (*kernel)(void*), void* with) {
        scheduler = from, body = kernel, argument = with, state = RUNNING;
        getcontext(&here);
        here.uc_stack.ss_sp = stack.get();
        here.uc_stack.ss_size = STACK;
        here.uc_link = from;
        const auto self = reinterpret_cast<std::uintptr_t>(this);
        makecontext(&here, reinterpret_cast<void (*)()>(enter), 2, unsigned(self), unsigned(self >> 32));
    }
};

// One block: all fibers up to the next barrier, again and again. Returns what went wrong, or nothing.
inline std::string run_fibers(std::vector<Fiber>& fibers, Order order, std::mt19937_64& random) {
    std::vector<std::size_t> turns(fibers.size());
    std::iota(turns.begin(), turns.end(), 0);
    for (;;) {
        if (order == RANDOM) std::shuffle(turns.begin(), turns.end(), random);
        std::size_t waiting = 0, finished = 0;
        for (std::size_t turn = 0; turn < turns.size(); ++turn) {
            Fiber& fiber = fibers[order == DESCENDING ? turns.size() - 1 - turn : turns[turn]];
            if (fiber.state != Fiber::FINISHED) {
                me = &fiber;
                swapcontext(fiber.scheduler, &fiber.here);
            }
            ++(fiber.state == Fiber::FINISHED ? finished : waiting);
        }
        if (!waiting) return "";
        if (finished)
            return "divergent __syncthreads: " + std::to_string(waiting) + " waiting, " + std::to_string(finished) + " finished";
    }
}

// Threads --------------------------------------------------------------------------------------------------------------

struct Thread : Context {
    std::barrier<>* barrier = nullptr;

    void wait() override { barrier->arrive_and_wait(); }
};

template <class Kernel>
void run_threads(std::vector<Thread>& contexts, Kernel& kernel) {
    std::barrier<> barrier(static_cast<std::ptrdiff_t>(contexts.size()));
    std::vector<std::thread> threads;
    for (Thread& context : contexts) {
        context.barrier = &barrier;
        threads.emplace_back([&] {
            me = &context;
            kernel();
            barrier.arrive_and_drop();
        });
    }
    for (std::thread& thread : threads) thread.join();
}

// Launches -------------------------------------------------------------------------------------------------------------

template <class Kernel>
std::string run(const Launch& launch, Kernel kernel) {
#ifdef __SANITIZE_ADDRESS__
    constexpr std::size_t FENCE = 0;  // the sanitizer knows where shared memory ends
#else
    constexpr std::size_t FENCE = 4096;  // bytes behind shared memory that nobody may write to
#endif
    const auto order = static_cast<Order>(launch.order);
    const auto bytes = static_cast<std::size_t>(launch.shared_bytes);
    std::mt19937_64 random(static_cast<std::uint64_t>(launch.seed));
    std::vector<Fiber> fibers(order == THREADS ? 0 : launch.block);
    std::vector<Thread> threads(order == THREADS ? launch.block : 0);
    for (std::int64_t block = 0; block < launch.grid; ++block) {
        const std::size_t size = bytes + FENCE;
        std::unique_ptr<unsigned char, void (*)(void*)> shared(static_cast<unsigned char*>(std::malloc(size)), std::free);
        std::memset(shared.get(), 0xff, size);
        const auto place = [&](Context& context, std::size_t i) {
            context.thread = {unsigned(i), 0, 0}, context.block = {unsigned(block), 0, 0};
            context.grid = {unsigned(launch.grid), 1, 1}, context.shared = shared.get();
        };
        std::string wrong;
        if (order == THREADS) {
            for (std::size_t i = 0; i < threads.size(); ++i) place(threads[i], i);
            run_threads(threads, kernel);
        } else {
            ucontext_t scheduler;
            for (std::size_t i = 0; i < fibers.size(); ++i) {
                place(fibers[i], i);
                fibers[i].start(&scheduler, [](void* it) { (*static_cast<Kernel*>(it))(); }, &kernel);
            }
            wrong = run_fibers(fibers, order, random);
        }
        for (std::size_t i = bytes; i < size; ++i)
            if (shared.get()[i] != 0xff) wrong = "write beyond shared memory: " + std::to_string(i - bytes) + " bytes behind it";
        if (!wrong.empty()) return "block " + std::to_string(block) + ": " + wrong;
    }
    return "";
}

template <class A>
A argument(std::int64_t value) {
    if constexpr (std::is_pointer_v<A>)
        return reinterpret_cast<A>(static_cast<std::uintptr_t>(value));
    else
        return value;
}

template <class... A, std::size_t... I>
std::string call(void (*kernel)(A...), const Launch& launch, const std::int64_t* values, std::index_sequence<I...>) {
    return run(launch, [=] { kernel(argument<A>(values[I])...); });
}

// "p" for a pointer, "i" for a 64-bit integer, "?" for what no launcher passes: the signature as the compiler sees it.
template <class... A>
std::string signature(void (*)(A...)) {
    return {(std::is_pointer_v<A> ? 'p' : std::is_same_v<A, long long> ? 'i' : '?')...};
}

template <class... A>
std::string launch(void (*kernel)(A...), const Launch& how, const std::int64_t* values) {
    return call(kernel, how, values, std::index_sequence_for<A...>{});
}

// All kernels of a program, by name. Both questions are answered with a text, empty where nothing went wrong.
struct Kernel {
    std::string signature;
    std::function<std::string(const Launch&, const std::int64_t*)> launch;
};

inline std::map<std::string, Kernel>& kernels() {
    static std::map<std::string, Kernel> all;
    return all;
}

template <class... A>
bool registered(const char* name, void (*kernel)(A...)) {
    kernels()[name] = {signature(kernel), [=](const Launch& how, const std::int64_t* values) { return launch(kernel, how, values); }};
    return true;
}

inline void tell(const std::string& text, char* where) { std::snprintf(where, 256, "%s", text.c_str()); }

}  // namespace cuda_host

#define CUDA_HOST_KERNEL(space, name) static const bool registered_##name = cuda_host::registered(#name, space::name)

extern "C" inline __attribute__((used)) void cuda_host_signature(const char* name, char* text) {
    cuda_host::tell(cuda_host::kernels().at(name).signature, text);
}

extern "C" inline __attribute__((used)) void cuda_host_launch(
    const char* name, const cuda_host::Launch* how, const std::int64_t* values, char* text) {
    cuda_host::tell(cuda_host::kernels().at(name).launch(*how, values), text);
}

#ifdef CUDA_HOST_COVERAGE
extern "C" void __gcov_dump(void);
extern "C" inline __attribute__((used)) void cuda_host_dump() { __gcov_dump(); }
#endif

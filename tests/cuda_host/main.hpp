// A program of one launch, for sanitizers that must own the process: NAME on the command line; on standard input the launch,
// for each argument its value (of a pointer: the bytes behind it), and these bytes. All buffers go to standard output.

#pragma once

#include "shim.hpp"

template <class T>
std::vector<T> take(std::size_t count) {
    std::vector<T> values(count);
    if (count && std::fread(values.data(), sizeof(T), count, stdin) != count) std::abort();
    return values;
}

int main(int, char** arguments) {
    const cuda_host::Kernel& kernel = cuda_host::kernels().at(arguments[1]);
    const cuda_host::Launch how = take<cuda_host::Launch>(1)[0];
    std::vector<std::int64_t> values = take<std::int64_t>(kernel.signature.size());
    std::vector<std::vector<char>> buffers;
    for (std::size_t i = 0; i < values.size(); ++i)
        if (kernel.signature[i] == 'p') {
            buffers.push_back(take<char>(static_cast<std::size_t>(values[i])));
            values[i] = reinterpret_cast<std::intptr_t>(buffers.back().data());
        }
    const std::string wrong = kernel.launch(how, values.data());
    for (const auto& buffer : buffers) std::fwrite(buffer.data(), 1, buffer.size(), stdout);
    std::fputs(wrong.c_str(), stderr);
    return !wrong.empty();
}

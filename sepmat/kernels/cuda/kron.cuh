// y = (F_1 ⊗ … ⊗ F_k) x on k adjacent modes, or a sum of such products, in one pass over x and y.
//
// A block takes tiles of x into shared memory and multiplies by all F_i there; specialise.py says what a tile is, chooses the
// numbers below and documents the arguments. Each compiled form lives in a namespace of its own, so that one translation
// unit may hold several. The same text runs on the host under tests/cuda_host: plain C++17, no warp instructions.

#ifndef KRON_SHARED
#define KRON_SHARED(T, name)                                \
    extern __shared__ __align__(16) unsigned char name##_[]; \
    T* const name = reinterpret_cast<T*>(name##_)
#endif
#define KRON_GLUE_(a, b) a##b
#define KRON_GLUE(a, b) KRON_GLUE_(a, b)

namespace KRON_GLUE(in_, KRON_ENTRY) {

using T = KRON_REAL;
using Int = long long;

constexpr int M[] = {KRON_M}, N[] = {KRON_N};  // F_i is M[i] × N[i]
constexpr int GROUPS[] = {KRON_GROUPS};        // modes of each stage, from the last modes to the first
constexpr int PLACES[] = {KRON_PLACES};        // where in shared memory: x, the result of each stage; -1: in y itself
constexpr int MODES = sizeof(M) / sizeof(int), STAGES = sizeof(GROUPS) / sizeof(int);
constexpr int INNER = KRON_INNER, ROWS = KRON_ROWS, THREADS = KRON_THREADS, HELD = KRON_HELD, AHEAD = KRON_AHEAD;
constexpr bool KEEP = KRON_KEEP, ADD = KRON_ADD;  // one x for all terms; one y for all terms
constexpr bool DIRECT = PLACES[STAGES] < 0;

__host__ __device__ constexpr int product(const int* sides, int first, int last) {
    int total = 1;
    for (int i = first; i < last; ++i) total *= sides[i];
    return total;
}

__host__ __device__ constexpr int modes_after(int stage) {
    int total = MODES;
    for (int i = 0; i < stage; ++i) total -= GROUPS[i];
    return total;
}

__host__ __device__ constexpr int factor_at(int mode) {
    int total = 0;
    for (int i = 0; i < mode; ++i) total += M[i] * N[i];
    return total;
}

__host__ __device__ constexpr int widest(int first, int last) {  // entries of a piece at its longest, between two modes
    int total = 1;
    for (int i = first; i < last; ++i) total *= M[i] > N[i] ? M[i] : N[i];
    return total;
}

// The largest divisor of m up to limit.
__host__ __device__ constexpr int batch(int m, int limit) {
    int size = limit < 1 ? 1 : limit < m ? limit : m;
    while (m % size) --size;
    return size;
}

constexpr int SLOT = (factor_at(MODES) + 3) / 4 * 4;

// Stage K multiplies modes FIRST … LAST - 1. The tile is (BEFORE, IN, STEP) and becomes (BEFORE, OUT, STEP); a thread takes whole
// pieces, the IN entries of one (before, step), SIDE of them at a time.
template <int K>
struct Stage {
    static constexpr int FIRST = modes_after(K + 1), LAST = modes_after(K);
    static constexpr int IN = product(N, FIRST, LAST), OUT = product(M, FIRST, LAST);
    static constexpr int STEP = product(M, LAST, MODES) * INNER, PIECES = ROWS * product(N, 0, FIRST) * STEP;
    static constexpr int EACH = (PIECES + THREADS - 1) / THREADS, FIT = KRON_VALUES / widest(FIRST, LAST);
    static constexpr int SIDE = FIT < 1 ? 1 : FIT < EACH ? FIT : EACH, ROUNDS = (EACH + SIDE - 1) / SIDE;
    static constexpr int FROM = PLACES[K], TO = PLACES[K + 1];
    static constexpr bool FULL = ROUNDS * SIDE * THREADS == PIECES;
    static_assert(IN == OUT || FROM != TO, "only a square stage works in place");
};

using Last = Stage<STAGES - 1>;

__device__ __forceinline__ unsigned padded(unsigned i) { return i + i / KRON_PAD; }

// Where entry j of a piece lies in shared memory, the tile being (·, WIDTH, STEP): linear in j where the padding is.
template <int WIDTH, int STEP>
__device__ __forceinline__ unsigned entry(unsigned piece, unsigned j) {
    const unsigned start = STEP == 1 ? piece * WIDTH : piece / STEP * (STEP * WIDTH) + piece % STEP;
    if constexpr (STEP % KRON_PAD == 0) return padded(start) + j * (STEP + STEP / KRON_PAD);
    if constexpr (KRON_PAD % (STEP * WIDTH) == 0) return padded(start) + j * STEP;
    return padded(start + j * STEP);
}

// F_FIRST ⊗ … ⊗ F_MODE along the middle of v (N[FIRST] … N[MODE], AFTER), for SIDE pieces in registers: the last mode first.
// put(s, j, value) takes entry j of the result of piece s. What is in registers has constant indices only; the rows of the first mode
// go from there to shared memory, in batches, so that few entries of F are in registers at a time.
template <int FIRST, int MODE, int AFTER, int SIDE, int LENGTH, class Put>
__device__ __forceinline__ void multiply(const T* factors, const T (&v)[SIDE][LENGTH], Put put) {
    constexpr int BEFORE = product(N, FIRST, MODE), m = M[MODE], n = N[MODE], BATCH = batch(m, AHEAD / n);
    constexpr bool MORE = MODE > FIRST;
    const T* const F = factors + factor_at(MODE);
    T u[SIDE][MORE ? BEFORE * m * AFTER : 1];
#pragma unroll(MORE ? m : 1)
    for (int first = 0; first < m; first += BATCH) {
        T total[BATCH][SIDE][BEFORE * AFTER] = {};
#pragma unroll
        for (int i = 0; i < BATCH; ++i)
#pragma unroll
            for (int j = 0; j < n; ++j) {
                const T f = F[(first + i) * n + j];
#pragma unroll
                for (int s = 0; s < SIDE; ++s)
#pragma unroll
                    for (int c = 0; c < BEFORE * AFTER; ++c)
                        total[i][s][c] += f * v[s][(c / AFTER * n + j) * AFTER + c % AFTER];
            }
#pragma unroll
        for (int i = 0; i < BATCH; ++i)
#pragma unroll
            for (int s = 0; s < SIDE; ++s)
#pragma unroll
                for (int c = 0; c < BEFORE * AFTER; ++c) {
                    const int j = (c / AFTER * m + first + i) * AFTER + c % AFTER;
                    if constexpr (MORE)
                        u[s][j] = total[i][s][c];
                    else
                        put(s, j, total[i][s][c]);
                }
    }
    if constexpr (MORE) multiply<FIRST, MODE - 1, AFTER * m>(factors, u, put);
}

// Stage K from shared memory; put(piece, j, value) takes the results.
template <int K, class Put>
__device__ __forceinline__ void stage(const T* factors, const T* shared, Put put) {
    using S = Stage<K>;
#pragma unroll 1
    for (int round = 0; round < S::ROUNDS; ++round) {
        const auto piece = [round](int s) { return threadIdx.x + (round * S::SIDE + s) * THREADS; };
        T v[S::SIDE][S::IN];
#pragma unroll
        for (int s = 0; s < S::SIDE; ++s)
#pragma unroll
            for (int j = 0; j < S::IN; ++j)
                v[s][j] = S::FULL || piece(s) < S::PIECES ? shared[S::FROM + entry<S::IN, S::STEP>(piece(s), j)] : T(0);
        multiply<S::FIRST, S::LAST - 1, 1>(factors, v, [&](int s, int j, T value) {
            if (S::FULL || piece(s) < S::PIECES) put(piece(s), j, value);
        });
    }
}

// All stages but the last, each followed by a barrier.
template <int K>
__device__ __forceinline__ void stages_before_the_last(const T* factors, T* shared) {
    if constexpr (K < STAGES - 1) {
        using S = Stage<K>;
        stage<K>(factors, shared, [&](unsigned piece, int j, T value) {
            shared[S::TO + entry<S::OUT, S::STEP>(piece, j)] = value;
        });
        __syncthreads();
        stages_before_the_last<K + 1>(factors, shared);
    }
}

// Where entry e of the factors of a term is found if each of them is stored as its transpose.
template <int MODE>
__device__ __forceinline__ int transposed_at(int e) {
    constexpr int start = factor_at(MODE), m = M[MODE], n = N[MODE];
    if constexpr (MODE + 1 < MODES)
        if (e >= start + m * n) return transposed_at<MODE + 1>(e);
    return start + (e - start) % n * m + (e - start) / n;
}

// The factors of one term into shared memory, row by row whichever way they are stored.
__device__ __forceinline__ void take_factors(const T* __restrict__ factors, T* slot, bool transposed) {
    constexpr int SIZE = factor_at(MODES), EACH = (SIZE + THREADS - 1) / THREADS;
#pragma unroll 8
    for (int i = 0; i < EACH; ++i) {
        const int e = threadIdx.x + i * THREADS;
        if (e < SIZE) slot[e] = factors[transposed ? transposed_at<0>(e) : e];
    }
}

// The part of x or y (outer, LENGTH, inner) that a tile covers: (rows, LENGTH, columns) of the tile lie inside.
template <class Real, int LENGTH>
struct Window {
    Real* start;
    Int outer, inner, rows, columns;

    __device__ __forceinline__ bool inside(Int row, Int column) const {
        return (ROWS == 1 || row < rows) && (INNER == 1 || column < columns);
    }

    __device__ __forceinline__ Real& at(Int row, Int k, Int column) const {
        return start[(ROWS == 1 ? 0 : row * outer) + (INNER == 1 ? k : k * inner + column)];
    }

    // The same, or some entry inside where that is outside: a load without a branch, of what is not used.
    __device__ __forceinline__ Real& near(Int row, Int k, Int column) const {
        return at(row < rows ? row : rows - 1, k, column < columns ? column : columns - 1);
    }

    // visit(where in the buffer of the tile, row, index along the modes, column) for all that this thread moves
    template <class Visit>
    __device__ __forceinline__ void each(Visit visit) const {
        constexpr int SIZE = ROWS * LENGTH * INNER, EACH = (SIZE + THREADS - 1) / THREADS;
#pragma unroll(ROWS * INNER == 1 ? AHEAD : AHEAD / 2)
        for (int i = 0; i < EACH; ++i) {
            const int e = threadIdx.x + i * THREADS;
            const unsigned where = THREADS % KRON_PAD ? padded(e) : padded(threadIdx.x) + i * (THREADS + THREADS / KRON_PAD);
            if (SIZE % THREADS == 0 || e < SIZE) visit(where, e / (LENGTH * INNER), e / INNER % LENGTH, e % INNER);
        }
    }
};

extern "C" __global__ void __launch_bounds__(KRON_THREADS, 1)
KRON_ENTRY(const T* __restrict__ x, const T* __restrict__ factors, T* __restrict__ y, Int outer, Int inner, Int terms,
           Int x_outer, Int x_term, Int y_outer, Int y_term, Int transposed) {
    KRON_SHARED(T, shared);
    const Int across = (inner + INNER - 1) / INNER, tiles = (outer + ROWS - 1) / ROWS * across;
    bool known = false;  // whether the factors of all terms are in shared memory
    for (Int number = blockIdx.x; number < tiles; number += gridDim.x) {
        const Int row = number / across * ROWS, column = number % across * INNER;
        Window<const T, product(N, 0, MODES)> from{x + row * x_outer + column, x_outer, inner, outer - row, inner - column};
        Window<T, product(M, 0, MODES)> to{y + row * y_outer + column, y_outer, inner, outer - row, inner - column};
        const auto give_y = [&] {  // that the last stage left in shared memory
            to.each([&](unsigned i, Int r, Int k, Int c) {
                if (to.inside(r, c)) to.at(r, k, c) = shared[unsigned(Last::TO) + i];
            });
        };

        for (Int term = 0; term < terms; ++term) {
            T* const slot = shared + (terms > HELD ? 0 : term * SLOT);
            const bool take_x = !KEEP || term == 0, take_F = !known || terms > HELD;
            if (take_x)
                from.each([&](unsigned i, Int r, Int k, Int c) { shared[Stage<0>::FROM + i] = from.near(r, k, c); });
            if (take_F) take_factors(factors + term * factor_at(MODES), slot, transposed);
            if (take_x || take_F) __syncthreads();
            stages_before_the_last<0>(slot, shared);
            stage<STAGES - 1>(slot, shared, [&](unsigned piece, int j, T value) {
                if constexpr (DIRECT) {
                    const unsigned r = piece / Last::STEP, k = piece % Last::STEP / INNER, c = piece % INNER;
                    if (to.inside(r, c)) to.at(r, j * (Last::STEP / INNER) + k, c) = value;
                } else {
                    T& entry_of_y = shared[unsigned(Last::TO) + entry<Last::OUT, Last::STEP>(piece, j)];
                    entry_of_y = ADD && term ? entry_of_y + value : value;
                }
            });
            __syncthreads();
            if (!ADD && !DIRECT) {
                give_y();
                __syncthreads();
            }
            from.start += x_term;
            if (!ADD) to.start += y_term;
        }
        known = true;
        if (ADD) give_y();  // the next tile has barriers before it writes there
    }
}

}  // namespace

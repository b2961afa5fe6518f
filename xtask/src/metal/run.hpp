// Runs the kernel before it: an invocation a thread, up to three workgroups at a time.
#undef device
#undef constant
#undef threadgroup
#undef thread
#undef kernel
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <pthread.h>
#include <string>
#include <thread>
#include <tuple>
#include <vector>

namespace run {
// What a kernel's references are to, in their order: buffers by their binding, or these.
enum { SHARED = -1, SIZES = -2 };

// Invocations that work on a workgroup together, one workgroup after the other.
struct Team {
    // In turns. To ThreadSanitizer who arrives at a barrier comes before all who leave it from then on: at a single one who
    // is fast at the next barrier would come before who is slow to leave this.
    pthread_barrier_t barriers[2];
    // Of the kernel's references.
    std::vector<char *> arguments;
    metal::uint3 group;
};

static thread_local Team *own;
static thread_local unsigned waited = 0;

static void wait_for_team() { pthread_barrier_wait(&own->barriers[waited++ & 1]); }

// A reference is to the next of the arguments; the others are built in.
template <class A> struct Argument {
    static A next(std::vector<char *>::const_iterator &, unsigned slot) {
        if constexpr (std::is_same<A, metal::uint3>::value) return own->group;
        else return slot;
    }
};
template <class T> struct Argument<T &> {
    static T &next(std::vector<char *>::const_iterator &at, unsigned) { return *reinterpret_cast<T *>(*at++); }
};

template <class A> constexpr size_t bytes_referred_to =
    std::is_reference<A>::value ? sizeof(std::remove_reference_t<A>) : 0;

// A kernel and what it is called with.
template <class... A> struct Call {
    void (*function)(A...);
    // What its references are to, and bytes of each.
    std::vector<int> order;
    std::vector<size_t> bytes;
    // Of the buffers whose length it asks for.
    std::vector<unsigned> sizes;
    unsigned grid[3];

    void invocation(Team *team, unsigned number, unsigned teams, unsigned slot) {
        own = team;
        for (unsigned z = 0; z < grid[2]; z++)
            for (unsigned y = 0; y < grid[1]; y++)
                for (unsigned x = 0; x < grid[0]; x++)
                    // So that neighbours run at the same time.
                    if ((x + y + z) % teams == number) one_group(team, metal::uint3(x, y, z), slot);
    }

    void one_group(Team *team, metal::uint3 group, unsigned slot) {
        if (slot == 0) {
            team->group = group;
            for (size_t k = 0; k < order.size(); k++)
                if (order[k] == SHARED) memset(team->arguments[k], 0xff, bytes[k]);
        }
        wait_for_team();
        auto at = team->arguments.cbegin();
        std::apply(function, std::tuple<A...>{Argument<A>::next(at, slot)...});
        wait_for_team();
    }
};

static void must(bool holds, const std::string &what) {
    if (holds) return;
    fprintf(stderr, "must be: %s\n", what.c_str());
    exit(3);
}

static std::vector<char> read(const std::string &path) {
    FILE *file = fopen(path.c_str(), "rb");
    must(file && !fseek(file, 0, SEEK_END), path + " can be read");
    std::vector<char> bytes(ftell(file));
    rewind(file);
    must(fread(bytes.data(), 1, bytes.size(), file) == bytes.size() && !fclose(file), path + " can be read");
    return bytes;
}

static void write(const std::string &path, const std::vector<char> &bytes) {
    FILE *file = fopen(path.c_str(), "wb");
    must(file && fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() && !fclose(file), path + " can be written");
}

// Arguments: the grid's three sizes, and for each binding its number, a file, and where it lies there. All files are
// written back. `sized`: the bindings whose length the kernel asks for.
template <class... A>
int main(void (*function)(A...), std::vector<int> order, std::vector<int> sized, unsigned workgroup, char **argv) {
    Call<A...> call{function, order, {}, {}, {}};
    for (unsigned &n : call.grid) n = strtoul(*++argv, nullptr, 10);
    std::map<std::string, std::vector<char>> files;
    std::map<int, char *> buffers;
    std::map<int, unsigned> lengths;
    while (*++argv) {
        int binding = atoi(*argv);
        std::string path = *++argv;
        size_t offset = strtoull(*++argv, nullptr, 10), size = strtoull(*++argv, nullptr, 10);
        auto &bytes = files[path];
        if (bytes.empty()) bytes = read(path);
        must(offset + size <= bytes.size(), "a binding within its buffer");
        buffers[binding] = bytes.data() + offset;
        lengths[binding] = size;
    }
    for (size_t bytes : {bytes_referred_to<A>...})
        if (bytes) call.bytes.push_back(bytes);
    must(call.bytes.size() == order.size(), "as many references as the kernel has");
    for (int binding : sized) call.sizes.push_back(lengths[binding]);

    unsigned teams = std::min(call.grid[0] * call.grid[1] * call.grid[2], 3u);
    std::vector<Team> all(teams);
    std::vector<std::thread> threads;
    for (unsigned number = 0; number < teams; number++) {
        Team &team = all[number];
        for (auto &barrier : team.barriers) pthread_barrier_init(&barrier, nullptr, workgroup);
        for (size_t k = 0; k < order.size(); k++) {
            char *argument = reinterpret_cast<char *>(call.sizes.data());
            if (order[k] == SHARED) argument = static_cast<char *>(aligned_alloc(16, (call.bytes[k] + 15) / 16 * 16));
            if (order[k] >= 0) {
                must(buffers.count(order[k]), "binding " + std::to_string(order[k]) + " bound");
                argument = buffers[order[k]];
            }
            team.arguments.push_back(argument);
        }
        for (unsigned slot = 0; slot < workgroup; slot++)
            threads.emplace_back([&, number, slot] { call.invocation(&all[number], number, teams, slot); });
    }
    for (auto &one : threads) one.join();
    for (auto &[path, bytes] : files) write(path, bytes);
    return 0;
}
} // namespace run

void metal::threadgroup_barrier(metal::mem_flags) { run::wait_for_team(); }

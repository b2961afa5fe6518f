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
// What a kernel's references are, in their order: buffers by their binding, or these.
enum { SHARED = -1, SIZES = -2 };

// Invocations that work on a workgroup together, one workgroup after the other.
struct Set {
    pthread_barrier_t barrier;
    // Of what the kernel's references are to.
    std::vector<char *> places;
    metal::uint3 group;
};

static thread_local Set *own;

static void wait_for_set() { pthread_barrier_wait(&own->barrier); }

// An argument of the kernel: a reference is to the next of the places, the others are built in.
template <class A> struct Next {
    static A of(std::vector<char *>::const_iterator &, unsigned slot) {
        if constexpr (std::is_same<A, metal::uint3>::value) return own->group;
        else return slot;
    }
};
template <class T> struct Next<T &> {
    static T &of(std::vector<char *>::const_iterator &place, unsigned) { return *reinterpret_cast<T *>(*place++); }
};

template <class A> constexpr size_t bytes_behind = std::is_reference<A>::value ? sizeof(std::remove_reference_t<A>) : 0;

// A kernel and what it is called with.
template <class... A> struct Call {
    void (*function)(A...);
    // What its references are, and bytes behind each.
    std::vector<int> order;
    std::vector<size_t> bytes;
    // Of the buffers whose length it asks for.
    std::vector<unsigned> sizes;
    std::vector<metal::uint3> groups;

    // Takes every third workgroup, or whatever the number of sets is.
    void invocation(Set *set, size_t first, size_t sets, unsigned slot) {
        own = set;
        for (size_t i = first; i < groups.size(); i += sets) {
            if (slot == 0) {
                set->group = groups[i];
                for (size_t k = 0; k < order.size(); k++)
                    if (order[k] == SHARED) memset(set->places[k], 0xff, bytes[k]);
            }
            wait_for_set();
            auto place = set->places.cbegin();
            std::apply(function, std::tuple<A...>{Next<A>::of(place, slot)...});
            wait_for_set();
        }
    }
};

static void must(bool holds, const char *what) {
    if (holds) return;
    perror(what);
    exit(3);
}

static std::vector<char> read(const char *path) {
    FILE *file = fopen(path, "rb");
    must(file && !fseek(file, 0, SEEK_END), path);
    std::vector<char> bytes(ftell(file));
    rewind(file);
    must(fread(bytes.data(), 1, bytes.size(), file) == bytes.size() && !fclose(file), path);
    return bytes;
}

static void write(const char *path, const std::vector<char> &bytes) {
    FILE *file = fopen(path, "wb");
    must(file && fwrite(bytes.data(), 1, bytes.size(), file) == bytes.size() && !fclose(file), path);
}

// Arguments: the grid's three sizes, and for each binding its number, a file, and where it lies there. All files are
// written back. `sized`: the bindings whose length the kernel asks for.
template <class... A>
int main(void (*function)(A...), std::vector<int> order, std::vector<int> sized, unsigned workgroup, char **argv) {
    unsigned grid[3];
    for (unsigned &n : grid) n = strtoul(*++argv, nullptr, 10);
    std::map<std::string, std::vector<char>> files;
    std::map<int, char *> buffers;
    std::map<int, unsigned> lengths;
    while (*++argv) {
        int binding = atoi(*argv);
        const char *path = *++argv;
        size_t offset = strtoull(*++argv, nullptr, 10), size = strtoull(*++argv, nullptr, 10);
        auto &bytes = files[path];
        if (bytes.empty()) bytes = read(path);
        must(offset + size <= bytes.size(), "a binding within its buffer");
        buffers[binding] = bytes.data() + offset;
        lengths[binding] = size;
    }

    Call<A...> call{function, order, {}, {}, {}};
    for (size_t bytes : {bytes_behind<A>...})
        if (bytes) call.bytes.push_back(bytes);
    must(call.bytes.size() == order.size(), "as many references as the kernel has");
    for (int binding : sized) call.sizes.push_back(lengths[binding]);
    for (unsigned z = 0; z < grid[2]; z++)
        for (unsigned y = 0; y < grid[1]; y++)
            for (unsigned x = 0; x < grid[0]; x++) call.groups.push_back(metal::uint3(x, y, z));

    std::vector<Set> sets(std::min<size_t>(call.groups.size(), 3));
    std::vector<std::thread> threads;
    for (size_t first = 0; first < sets.size(); first++) {
        Set &set = sets[first];
        pthread_barrier_init(&set.barrier, nullptr, workgroup);
        for (size_t k = 0; k < order.size(); k++) {
            char *place = order[k] == SIZES ? reinterpret_cast<char *>(call.sizes.data()) : buffers[order[k]];
            if (order[k] == SHARED) place = static_cast<char *>(aligned_alloc(16, (call.bytes[k] + 15) / 16 * 16));
            set.places.push_back(place);
        }
        for (unsigned slot = 0; slot < workgroup; slot++)
            threads.emplace_back([&, first, slot] { call.invocation(&sets[first], first, sets.size(), slot); });
    }
    for (auto &one : threads) one.join();
    for (auto &[path, bytes] : files) write(path.c_str(), bytes);
    return 0;
}
} // namespace run

void metal::threadgroup_barrier(metal::mem_flags) { run::wait_for_set(); }

// In place of Metal's standard library, for clang as a C++ compiler: as much of it as naga's MSL uses. Swizzles are
// functions here.
#pragma once
#include <cmath>
#include <cstring>
#include <type_traits>

#define device
#define constant const
#define threadgroup
#define thread
#define kernel

struct half {
    __fp16 value;
    half() = default;
    half(float v) : value(v) {}
    operator float() const { return value; }
};

namespace metal {
typedef unsigned uint;

template <class T, int N> struct vec;

template <class T> struct alignas(2 * sizeof(T)) vec<T, 2> {
    T x, y;
    vec() = default;
    vec(T a) : x(a), y(a) {}
    vec(T a, T b) : x(a), y(b) {}
    template <class U> explicit vec(vec<U, 2> v) : x(T(v.x)), y(T(v.y)) {}
    T &operator[](int i) { return (&x)[i]; }
    T operator[](int i) const { return (&x)[i]; }
};

template <class T> struct alignas(4 * sizeof(T)) vec<T, 3> {
    T x, y, z;
    vec() = default;
    vec(T a) : x(a), y(a), z(a) {}
    vec(T a, T b, T c) : x(a), y(b), z(c) {}
    T &operator[](int i) { return (&x)[i]; }
    T operator[](int i) const { return (&x)[i]; }
    vec<T, 2> xy() const { return {x, y}; }
    vec<T, 2> xz() const { return {x, z}; }
    vec<T, 2> yz() const { return {y, z}; }
};

template <class T> struct alignas(4 * sizeof(T)) vec<T, 4> {
    T x, y, z, w;
    vec() = default;
    vec(T a) : x(a), y(a), z(a), w(a) {}
    vec(T a, T b, T c, T d) : x(a), y(b), z(c), w(d) {}
    vec(vec<T, 2> a, vec<T, 2> b) : x(a.x), y(a.y), z(b.x), w(b.y) {}
    template <class U> explicit vec(vec<U, 4> v) : x(T(v.x)), y(T(v.y)), z(T(v.z)), w(T(v.w)) {}
    T &operator[](int i) { return (&x)[i]; }
    T operator[](int i) const { return (&x)[i]; }
    vec<T, 2> xy() const { return {x, y}; }
    vec<T, 2> xz() const { return {x, z}; }
    vec<T, 2> yz() const { return {y, z}; }
    vec<T, 2> yw() const { return {y, w}; }
    vec<T, 2> zw() const { return {z, w}; }
};

// Not deduced from: the other argument says which type it is.
template <class T> struct identity {
    typedef T type;
};
template <class T> using as = typename identity<T>::type;

#define BINARY(op, R)                                                                                                   \
    template <class T, int N> vec<R, N> operator op(vec<T, N> a, vec<T, N> b) {                                         \
        vec<R, N> r;                                                                                                    \
        for (int i = 0; i < N; i++) r[i] = a[i] op b[i];                                                                \
        return r;                                                                                                       \
    }                                                                                                                   \
    template <class T, int N> vec<R, N> operator op(vec<T, N> a, as<T> b) { return a op vec<T, N>(b); }                 \
    template <class T, int N> vec<R, N> operator op(as<T> a, vec<T, N> b) { return vec<T, N>(a) op b; }
BINARY(+, T) BINARY(-, T) BINARY(*, T) BINARY(/, T) BINARY(%, T)
BINARY(&, T) BINARY(|, T) BINARY(^, T) BINARY(<<, T) BINARY(>>, T)
BINARY(==, bool) BINARY(!=, bool) BINARY(<, bool) BINARY(>, bool) BINARY(<=, bool) BINARY(>=, bool)
#undef BINARY
template <class T, int N> vec<T, N> &operator-=(vec<T, N> &a, as<vec<T, N>> b) { return a = a - b; }

#define UNARY(op)                                                                                                       \
    template <class T, int N> vec<T, N> operator op(vec<T, N> v) {                                                      \
        for (int i = 0; i < N; i++) v[i] = op v[i];                                                                     \
        return v;                                                                                                       \
    }
UNARY(!) UNARY(-) UNARY(~)
#undef UNARY

typedef vec<float, 2> float2;
typedef vec<float, 3> float3;
typedef vec<float, 4> float4;
typedef vec<uint, 2> uint2;
typedef vec<uint, 3> uint3;
typedef vec<uint, 4> uint4;
typedef vec<int, 2> int2;
typedef vec<int, 4> int4;
typedef vec<bool, 2> bool2;
typedef vec<bool, 4> bool4;
typedef vec<half, 2> half2;

struct float4x4 {
    float4 columns[4];
    float4x4() = default;
    float4x4(float4 a, float4 b, float4 c, float4 d) : columns{a, b, c, d} {}
    float4 &operator[](int i) { return columns[i]; }
    float4 operator[](int i) const { return columns[i]; }
};
inline float4x4 transpose(float4x4 m) {
    float4x4 r;
    for (int i = 0; i < 4; i++)
        for (int j = 0; j < 4; j++) r[i][j] = m[j][i];
    return r;
}

template <int N> bool all(vec<bool, N> v) {
    bool r = true;
    for (int i = 0; i < N; i++) r = r && v[i];
    return r;
}
template <int N> bool any(vec<bool, N> v) { return !all(!v); }

template <class T> using arithmetic = std::enable_if_t<std::is_arithmetic<T>::value, T>;
template <class T> arithmetic<T> min(T a, T b) { return a < b ? a : b; }
template <class T> arithmetic<T> max(T a, T b) { return a > b ? a : b; }
template <class T> arithmetic<T> clamp(T v, as<T> low, as<T> high) { return min(max(v, low), high); }
template <class T> T select(T a, as<T> b, bool c) { return c ? b : a; }
inline float fma(float a, float b, float c) { return std::fma(a, b, c); }
inline float rint(float v) { return std::rint(v); }
inline float abs(float v) { return std::fabs(v); }
// Off by two to four units in the last place, as a GPU's may be.
inline float sqrt(float v) { return std::sqrt(v) * (1.0f + 0x1p-22f); }

template <class T, int N> vec<T, N> min(vec<T, N> a, as<vec<T, N>> b) {
    for (int i = 0; i < N; i++) a[i] = min(a[i], b[i]);
    return a;
}
template <class T, int N> vec<T, N> max(vec<T, N> a, as<vec<T, N>> b) {
    for (int i = 0; i < N; i++) a[i] = max(a[i], b[i]);
    return a;
}
template <class T, int N> vec<T, N> clamp(vec<T, N> v, as<vec<T, N>> low, as<vec<T, N>> high) {
    return min(max(v, low), high);
}
template <class T, int N> vec<T, N> select(vec<T, N> a, as<vec<T, N>> b, vec<bool, N> c) {
    for (int i = 0; i < N; i++) a[i] = c[i] ? b[i] : a[i];
    return a;
}
template <int N> vec<float, N> fma(vec<float, N> a, as<vec<float, N>> b, as<vec<float, N>> c) {
    for (int i = 0; i < N; i++) a[i] = std::fma(a[i], b[i], c[i]);
    return a;
}
template <int N> vec<float, N> rint(vec<float, N> v) {
    for (int i = 0; i < N; i++) v[i] = std::rint(v[i]);
    return v;
}
template <int N> vec<float, N> abs(vec<float, N> v) {
    for (int i = 0; i < N; i++) v[i] = std::fabs(v[i]);
    return v;
}

enum class mem_flags { mem_none, mem_device, mem_threadgroup };
void threadgroup_barrier(mem_flags);

enum memory_order { memory_order_relaxed };
struct atomic_uint {
    uint value;
};
inline uint atomic_fetch_or_explicit(atomic_uint *at, uint v, memory_order) {
    return __atomic_fetch_or(&at->value, v, __ATOMIC_RELAXED);
}
inline uint atomic_fetch_and_explicit(atomic_uint *at, uint v, memory_order) {
    return __atomic_fetch_and(&at->value, v, __ATOMIC_RELAXED);
}
inline void atomic_store_explicit(atomic_uint *at, uint v, memory_order) {
    __atomic_store_n(&at->value, v, __ATOMIC_RELAXED);
}
inline uint atomic_load_explicit(const atomic_uint *at, memory_order) {
    return __atomic_load_n(&at->value, __ATOMIC_RELAXED);
}
} // namespace metal

template <class T, class U> T as_type(U from) {
    static_assert(sizeof(T) == sizeof(U), "as_type changes no size");
    T to;
    memcpy(&to, &from, sizeof to);
    return to;
}

using namespace metal;

// What the network has besides its norms. One invocation computes one element of the result.

// Strides: from a row to the next, from a column to the next. With them one kernel multiplies transposed matrices, too.
struct Sizes {
    a_strides: vec2<u32>,
    b_strides: vec2<u32>,
    columns: u32,
    inner: u32,
}

@group(0) @binding(0) var<storage, read> a: array<f32>;
@group(0) @binding(1) var<storage, read> b: array<f32>;
@group(0) @binding(2) var<storage, read_write> product: array<f32>;
@group(0) @binding(3) var<uniform> sizes: Sizes;

@compute @workgroup_size(64)
fn multiply(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= arrayLength(&product)) {
        return;
    }
    let row = id.x / sizes.columns;
    let column = id.x % sizes.columns;
    var i = row * sizes.a_strides.x;
    var j = column * sizes.b_strides.y;
    var sum = 0.0;
    for (var k = 0u; k < sizes.inner; k++) {
        sum += a[i] * b[j];
        i += sizes.a_strides.y;
        j += sizes.b_strides.x;
    }
    product[id.x] = sum;
}

@group(0) @binding(0) var<storage, read> y: array<f32>;
@group(0) @binding(1) var<storage, read> targets: array<f32>;
@group(0) @binding(2) var<storage, read_write> squared_errors: array<f32>;
@group(0) @binding(3) var<storage, read_write> dy: array<f32>;

// The loss is the mean of the squared errors, which is left to the host: it asks for the loss now and then only.
@compute @workgroup_size(64)
fn squared_error(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x >= arrayLength(&y)) {
        return;
    }
    let error = y[id.x] - targets[id.x];
    squared_errors[id.x] = error * error;
    dy[id.x] = 2.0 * error / f32(arrayLength(&y));
}

override learning_rate: f32;

@group(0) @binding(0) var<storage, read> gradient: array<f32>;
@group(0) @binding(1) var<storage, read_write> parameter: array<f32>;

@compute @workgroup_size(64)
fn descend(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x < arrayLength(&parameter)) {
        parameter[id.x] -= learning_rate * gradient[id.x];
    }
}

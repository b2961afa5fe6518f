// Sums down the columns of rows that a workgroup takes, for the gradients of layer norm's weights: a leaf is what one
// invocation has summed, row by row.
struct Columns {
    g: vec4<f32>,
    g_xhat: vec4<f32>,
}

// What the elements of a unit that are not there add goes nowhere. Registers are short: the bias's sum only where there
// is one.
fn with_row(sums: Columns, row: Unit) -> Columns {
    let g_xhat = fma(row.g, row.xhat, sums.g_xhat);
    if (!HAS_BIAS) {
        return Columns(vec4<f32>(0.0), g_xhat);
    }
    return Columns(opaque4(sums.g + row.g), g_xhat);
}

// Merges the sums of a unit's columns over the workgroup's leaves, and writes the results if these are all rows, or a
// partial result for each column, in the workgroup's plane. `p`: of an invocation's first row. A row's lanes are
// neighbours, and no rows are abreast.
fn write_columns(p: Place, unit: u32, own: Columns) {
    let slot = p.slot;
    slots[slot] = bitcast<vec4<u32>>(own.g);
    slots[WORKGROUP + slot] = bitcast<vec4<u32>>(own.g_xhat);
    for (var step = LEAVES; step < WORKGROUP; step <<= 1u) {
        workgroupBarrier();
        let left = slot / LEAVES * (2u * step) + slot % LEAVES;
        if (left + step < WORKGROUP) {
            slots[left] = added(left, left + step);
            slots[WORKGROUP + left] = added(WORKGROUP + left, WORKGROUP + left + step);
        }
    }
    let n = valid(p, unit);
    if (p.inside & (slot < LEAVES) & (n > 0u)) {
        let rows = WORKGROUP / LEAVES * ROUNDS;
        let count = min(params.end_target - p.goal, rows);
        let plane = params.partials_out_at + p.goal / rows * params.len;
        let at = positions(p, unit);
        let g = slots[slot];
        let g_xhat = slots[WORKGROUP + slot];
        write_column(plane, at.x, count, g.x, g_xhat.x);
        if (n > 1u) {
            write_column(plane, at.y, count, g.y, g_xhat.y);
        }
        if (n > 2u) {
            write_column(plane, at.z, count, g.z, g_xhat.z);
        }
        if (n > 3u) {
            write_column(plane, at.w, count, g.w, g_xhat.w);
        }
    }
    // The next unit's sums go where these were read.
    workgroupBarrier();
}

fn write_column(plane: u32, column: u32, count: u32, g: u32, g_xhat: u32) {
    if (FINISHES) {
        saved[params.gradients_at + column] = g_xhat;
        saved[params.gradients_at + params.state_stride + column] = g;
    } else {
        partials[plane + column] = vec4<u32>(count, g, g_xhat, 0u);
    }
}

fn added(left: u32, right: u32) -> vec4<u32> {
    return bitcast<vec4<u32>>(bitcast<vec4<f32>>(slots[left]) + bitcast<vec4<f32>>(slots[right]));
}

// Targets that fit on chip: read once, reduce, finish, write once.
fn take(p: Place, known: Knowns, tile: Tile) {
    let sums = tree(p, leaves(p, tile, known), LEAVES);
    let result = results(p, sums);
    write_partials(p, sums);
//#if WRITES
    if (p.inside) {
//#for u
        transform_units(p, $uu, tile[$u], result, known);
//#end
    }
//#end
}

@compute @workgroup_size(WORKGROUP)
fn main(@builtin(workgroup_id) workgroup: vec3<u32>, @builtin(local_invocation_index) slot: u32) {
//#if COLUMNS
//#for u
    var columns$u = Columns();
//#end
    for (var round = 0u; round < ROUNDS; round++) {
        let p = locate_round(workgroup, slot, round);
        let known = knowns(p);
        let tile = load_tile(p, known);
        take(p, known, tile);
        if (p.inside) {
//#for u
            columns$u = with_row(columns$u, tile[$u][0]);
//#end
        }
        // The next row's leaves go where results of this one are read.
        workgroupBarrier();
    }
    let first = locate(workgroup, slot);
//#for u
    write_columns(first, $uu, columns$u);
//#end
//#else
    let p = locate(workgroup, slot);
    let known = knowns(p);
    take(p, known, load_tile(p, known));
//#end
}

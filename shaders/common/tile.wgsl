// What an invocation takes: the units of one leaf, or of a part of it, of each of the targets that it has abreast.
alias Units = array<Unit, ABREAST>;
alias Tile = array<Units, UNITS>;
alias Knowns = array<Known, ABREAST>;
alias Results = array<Result, ABREAST>;

// What is written of a unit.
struct Written {
    output: vec4<f32>,
    second_output: vec4<f32>,
}

// The place of the target that is `t` further.
fn beside(p: Place, t: u32) -> Place {
    var q = p;
    q.goal += t;
    return q;
}

//#if WIDE_ROWS
// The channels of columns of rows, without a division for each.
fn channels(p: Place) -> Indices {
    var column = p.goal % params.inner;
    var channel = column;
    if (MAP_SHARED) {
        channel /= params.map_target_div;
    }
    var next = (channel + 1u) * params.map_target_div;
    var indices = Indices();
//#for t
    indices[$t] = channel;
    column++;
    let is_next$t = column == next;
    channel += u32(is_next$t);
    next += select(0u, params.map_target_div, is_next$t);
    let is_over$t = column == params.inner;
    column = select(column, 0u, is_over$t);
    channel = select(channel, 0u, is_over$t);
    next = select(next, params.map_target_div, is_over$t);
//#end
    return indices;
}

fn affine_indices(p: Place) -> Indices {
    return channels(p);
}

fn stat_indices(p: Place) -> Indices {
    return channels(p);
}
//#else
// Where the targets' weights are.
fn affine_indices(p: Place) -> Indices {
    return Indices(
//#for t
        select(mapped(beside(p, $tu)), p.goal + $tu, OVER_AFFINE),
//#end
    );
}

// Where their statistics are.
fn stat_indices(p: Place) -> Indices {
    if (STATS_SHARED) {
        // By one division: at least two neighbours share one, and the first of four is a multiple of four.
        let first = p.goal / params.stat_div;
        let beyond = p.goal - first * params.stat_div;
        return Indices(
//#for t
            first + u32(beyond + $tu >= params.stat_div),
//#end
        );
    }
    return Indices(
//#for t
        select(p.goal + $tu, mapped(beside(p, $tu)), OVER_AFFINE),
//#end
    );
}
//#end

fn load_units(p: Place, unit: u32, known: Knowns) -> Units {
    var x = Abreast();
    var residual = Abreast();
    var dy = Abreast();
//#if INPUT
    x = load_input(p, unit);
//#end
//#if RESIDUAL_EARLY
    residual = load_residual(p, unit);
//#end
//#if GRADIENT
    dy = load_gradient(p, unit);
//#end
    return Units(
//#for t
        unit_of(beside(p, $tu), unit, x[$t], residual[$t], dy[$t], known[$t]),
//#end
    );
}

fn load_tile(p: Place, known: Knowns) -> Tile {
    return Tile(
//#for u
        load_units(p, $uu, known),
//#end
    );
}

fn leaves(p: Place, tile: Tile, known: Knowns) -> Partials {
    return Partials(
//#for t
        leaf(
            beside(p, $tu),
            array<Unit, UNITS>(
//#for u
                tile[$u][$t],
//#end
            ),
            known[$t],
        ),
//#end
    );
}

// Sums of leaves whose elements need not be kept.
fn leaves_in_parts(p: Place, known: Knowns) -> Partials {
//#if PARTS
    let parts = loop_end(params.parts, p.slot);
    var sums = Partials();
    // Eight parts first: a single sum of all would round more.
    for (var first = 0u; first < parts; first += 8u) {
        var eight = Partials();
        for (var part = first; part < min(first + 8u, parts); part++) {
            let q = part_of(p, part);
            let own = leaves(q, load_tile(q, known), known);
//#for t
            eight[$t] = merge(eight[$t], own[$t]);
//#end
        }
//#for t
        sums[$t] = merge(sums[$t], eight[$t]);
//#end
    }
    return sums;
//#else
    return leaves(p, load_tile(p, known), known);
//#end
}

// What sums come to, written where this is to be done.
fn finish(p: Place, sums: Partials, known: Knowns) -> Results {
    let result = Results(
//#for t
        result_of(sums[$t], known[$t]),
//#end
    );
//#if COLUMNS
    // Columns have results.
//#else
    // Once, whatever the number of workgroups that have them.
    if (FINISHES & p.exists & (p.tile == 0u) & (p.leaf_lane == 0u)) {
        write_results(p, sums, result);
    }
//#end
    return result;
}

fn transform_units(p: Place, unit: u32, units: Units, result: Results, known: Knowns) {
    var residual = Abreast();
//#if RESIDUAL_LATE
    residual = load_residual(p, unit);
//#end
    let written = array<Written, ABREAST>(
//#for t
        transform(beside(p, $tu), unit, units[$t], residual[$t], result[$t], known[$t]),
//#end
    );
//#if OUTPUT
    store_output(
        p,
        unit,
        Abreast(
//#for t
            written[$t].output,
//#end
        ),
    );
//#end
//#if SECOND_OUTPUT
    store_second_output(
        p,
        unit,
        Abreast(
//#for t
            written[$t].second_output,
//#end
        ),
    );
//#end
}

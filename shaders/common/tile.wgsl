// The elements of a leaf, in registers.
fn load_tile(p: Place, known: Known) -> array<Unit, UNITS> {
    return array<Unit, UNITS>(
//#for u
        load_unit(p, $uu, known),
//#end
    );
}

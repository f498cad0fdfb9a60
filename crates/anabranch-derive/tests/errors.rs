//! What the compiler says to a struct that cannot be an entity. After a change of the texts, look at what is new:
//! `TRYBUILD=overwrite cargo test -p anabranch-derive`.

#[test]
fn errors_say_what_to_do_instead() {
    trybuild::TestCases::new().compile_fail("tests/ui/*.rs");
}

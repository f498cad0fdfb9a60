//! Replays the corpus of the fuzz target `change_admission`, and some inputs of its kind.

use std::path::Path;

use super::fleet::Dice;
use super::input::change_admission;

#[test]
fn the_corpus_of_change_admission_does_no_harm() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../fuzz/corpus/change_admission");
    let mut replayed = 0;
    for entry in std::fs::read_dir(folder).expect("the corpus") {
        let path = entry.expect("an entry").path();
        println!("{}", path.display());
        change_admission(&std::fs::read(path).expect("an input"));
        replayed += 1;
    }
    assert!(replayed > 0, "the corpus is there");
}

#[test]
fn random_inputs_of_change_admission_do_no_harm() {
    let mut dice = Dice::new(3);
    for _ in 0..3_000 {
        let bytes: Vec<u8> = (0..dice.below(40)).map(|_| u8::try_from(dice.below(256)).unwrap()).collect();
        change_admission(&bytes);
    }
}

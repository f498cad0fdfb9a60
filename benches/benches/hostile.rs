//! How long each hostile change takes to refuse, by a replica that has the document: read, checked, and applied as far
//! as it comes. None may take 250 ms.
#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::path::{Path, PathBuf};

use anabranch_core::document::Document;
use anabranch_core::{Actor, Change, CollectionName, Schema, Stamp};
use criterion::{Criterion, criterion_group, criterion_main};
use serde_json::{Map, json};

fn hostile() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../crates/anabranch-core/tests/hostile");
    let mut files: Vec<_> = std::fs::read_dir(folder).expect("the folder").map(|it| it.expect("it").path()).collect();
    files.retain(|path| path.extension().is_some_and(|it| it == "change"));
    files.sort();
    files
}

fn note() -> Document {
    let schema = Schema::from_toml("version = 1\n[collections.notes.fields]\ntitle = { kind = \"register\" }")
        .expect("a schema");
    let name = CollectionName::new("notes").expect("a name");
    let mut document = Document::new(&Actor::from_bytes(&[1]).expect("an actor"));
    let fields = Map::from_iter([("title".to_owned(), json!("honest"))]);
    document
        .create(&name, &schema.collections["notes"], Stamp::from_raw(1).expect("a stamp"), &fields)
        .expect("a note");
    document
}

fn refuse(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("hostile");
    group.sample_size(10);
    let note = note();
    for path in hostile() {
        let bytes = std::fs::read(&path).expect("a file");
        group.bench_function(path.file_stem().expect("a name").to_string_lossy(), |bencher| {
            bencher.iter(|| {
                let applied = Change::parse(bytes.clone()).map(|change| note.clone().apply(&[change]).is_ok());
                assert!(!applied.unwrap_or(false), "it is refused");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, refuse);
criterion_main!(benches);

//! A contained panic prints nothing, since its message may hold values; the application's own hook sees the others.
//! One test in a program of its own: the hook belongs to the process.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]
#![expect(dead_code, reason = "each test program uses its part of what is shared")]
#![expect(unreachable_pub, reason = "modules are shared between test programs")]

#[path = "admission/chunk.rs"]
mod chunk;

use std::sync::atomic::{AtomicUsize, Ordering};

use anabranch_core::document::{ApplyError, Document};
use anabranch_core::{Actor, Change};
use chunk::{Chunk, column};

static SEEN: AtomicUsize = AtomicUsize::new(0);

/// A list, and an insertion after an op that is no element of it: Automerge panics.
fn panicking() -> [Change; 2] {
    let list = Chunk::first(
        &[7],
        vec![
            (column::KEY_TEXT, vec![0x7f, 1, b'l']),
            (column::INSERT, vec![1]),
            (column::ACTION, vec![0x7f, 2]),
            (column::VALUE_META, vec![0x7f, 0]),
            (column::PREDECESSOR_COUNT, vec![0x7f, 0]),
        ],
    );
    let first = Change::parse(list.seal()).unwrap();
    let mut second = list;
    second.columns = vec![
        (column::OBJECT_ACTOR, vec![0x7f, 0]),
        (column::OBJECT_COUNTER, vec![0x7f, 1]),
        (column::KEY_ACTOR, vec![0x7f, 0]),
        (column::KEY_COUNTER, vec![0x7f, 1]),
        (column::INSERT, vec![0, 1]),
        (column::ACTION, vec![0x7f, 1]),
        (column::VALUE_META, vec![0x7f, 0]),
        (column::PREDECESSOR_COUNT, vec![0x7f, 0]),
    ];
    (second.seq, second.start_op, second.dependencies) = (2, 2, vec![*first.hash().as_bytes()]);
    [first, Change::parse(second.seal()).unwrap()]
}

#[test]
fn a_contained_panic_is_silent_and_no_other() {
    std::panic::set_hook(Box::new(|_| {
        SEEN.fetch_add(1, Ordering::SeqCst);
    }));
    let [list, hostile] = panicking();
    let mut document = Document::new(&Actor::from_bytes(&[1]).unwrap());
    document.apply(&[list]).unwrap();
    assert_eq!(document.apply(&[hostile]), Err(ApplyError::Poisoned));
    let contained = SEEN.load(Ordering::SeqCst);
    let caught = std::panic::catch_unwind(|| panic!("the application's own"));
    let all = SEEN.load(Ordering::SeqCst);
    // What the test harness prints when this fails is its business again.
    drop(std::panic::take_hook());
    assert!(caught.is_err());
    assert_eq!((contained, all), (0, 1));
}

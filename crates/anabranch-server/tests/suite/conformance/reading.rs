//! What every backend must say of what it holds.

use std::collections::BTreeMap;
use std::sync::Arc;

use anabranch_core::sync::reconcile::{Item, Reconciler, Then};
use anabranch_core::sync::{LogPage, SpaceDigest};
use anabranch_core::wire::{Answer, Ask, Mark, Missing, Reply, Wanted};
use anabranch_core::{CollectionName, Digest};
use anabranch_server::{Backend, Histories, PageBudget};

use super::{ALL, Storage, log, page, push};
use crate::changes::{Author, accepted, entity, heads_of, notes, purge, space};

pub(crate) async fn histories_are_the_log_entity_by_entity(storage: impl Storage) {
    let backend = storage.open();
    let (home, mut author) = (space("home"), Author::new(1));
    let mut envelopes = Vec::new();
    for round in 0..3 {
        envelopes.extend((1..=5).map(|n| author.edit(entity(n), &format!("{round}"))));
    }
    push(&backend, &home, envelopes.clone()).await;
    push(&backend, &space("other"), vec![Author::new(2).edit(entity(9), "elsewhere")]).await;
    assert_eq!(backend.collections(home.clone()).await.unwrap(), [notes()]);
    assert_eq!(backend.collections(space("nowhere")).await.unwrap(), []);
    let touched = backend.touched(home.clone(), 10, 12).await.unwrap();
    assert_eq!(touched, [(notes(), entity(1)), (notes(), entity(2))]);
    // All of it in the order of entities, whatever the size of the pages; and parts of it.
    for (from, to, up_to) in [(0, None, 15), (0, None, 7), (2, None, 15), (2, Some(4), 15)] {
        let mut expected: Vec<_> = envelopes[..up_to].to_vec();
        expected.retain(|envelope| envelope.entity >= entity(from) && to.is_none_or(|to| envelope.entity < entity(to)));
        expected.sort_by_key(|envelope| envelope.entity);
        let expected: Vec<_> = expected.into_iter().map(|envelope| (envelope.entity, envelope.change)).collect();
        for budget in [ALL, PageBudget { bytes: 1, changes: 9 }, PageBudget { bytes: usize::MAX, changes: 2 }] {
            let (mut read, mut next) = (Vec::new(), Some((entity(from), 0)));
            while let Some(from) = next {
                let up_to = u64::try_from(up_to).unwrap();
                let range = Histories { collection: notes(), from, to: to.map(entity), up_to };
                let page = backend.histories(home.clone(), range, budget).await.unwrap();
                assert!(!page.changes.is_empty() || page.next.is_none(), "no page is empty for nothing");
                read.extend(page.changes.into_iter().map(|(id, change)| (id, change.into_bytes())));
                next = page.next;
            }
            assert_eq!(read, expected, "{from} to {to:?} up to {up_to}, {budget:?}");
        }
    }
    let nothing = Histories { collection: notes(), from: (entity(0), 0), to: None, up_to: 15 };
    assert!(backend.histories(space("nowhere"), nothing, ALL).await.unwrap().changes.is_empty());
}

pub(crate) async fn a_page_keeps_its_budget(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let large = "x".repeat(5_000);
    let batch: Vec<_> = ["a", "b", &large, "c", "d"].map(|title| author.edit(entity(1), title)).into();
    let small = batch[3..].iter().map(|envelope| envelope.change.len()).sum();
    push(&backend, &home, batch).await;
    let budget = PageBudget { bytes: small, changes: 100 };
    let mut after = Mark::START;
    for (places, rest) in [(1..=2, true), (3..=3, true), (4..=5, false)] {
        let (rows, more) = page(&backend, &home, after, budget).await;
        assert_eq!(rows.iter().map(|(mark, _)| mark.seq).collect::<Vec<_>>(), places.collect::<Vec<_>>());
        assert_eq!(more, rest);
        after = rows.last().unwrap().0;
    }
    assert_eq!(page(&backend, &home, after, budget).await, (Vec::new(), false));
}

pub(crate) async fn spaces_do_not_leak(storage: impl Storage) {
    let backend = storage.open();
    let (home, work) = (space("home"), space("work"));
    let mut author = Author::new(1);
    let (first, second) = (author.edit(entity(1), "a"), author.edit(entity(1), "b"));
    push(&backend, &home, vec![first.clone()]).await;
    // Neither dependencies nor parents nor collections nor writers reach over.
    let (answers, _) = push(&backend, &work, vec![second]).await;
    assert!(matches!(answers[0], Answer::Held { .. }));
    let mut child = author.edit(entity(2), "c");
    child.parent = Some(entity(1));
    let (answers, _) = push(&backend, &work, vec![child]).await;
    assert!(matches!(answers[0], Answer::Held { missing: Missing::Parent(_) }));
    let mut theirs = Author::new(1).edit(entity(1), "other");
    theirs.collection = CollectionName::new("folders").unwrap();
    let (answers, _) = push(&backend, &work, vec![theirs.clone()]).await;
    assert_eq!(accepted(&answers[0]), 1);
    assert_eq!(log(&backend, &home).await.into_iter().map(|(_, envelope)| envelope).collect::<Vec<_>>(), [first]);
    assert_eq!(log(&backend, &work).await.into_iter().map(|(_, envelope)| envelope).collect::<Vec<_>>(), [theirs]);
}

pub(crate) async fn the_overview_is_right(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let empty = backend.overview(home.clone()).await.unwrap();
    assert_eq!((empty.head, empty.entities, empty.changes), (Mark::START, 0, 0));
    assert_eq!(empty.digest, SpaceDigest::default().finish());
    assert!(backend.is_empty().await.unwrap());

    // Two writers: concurrent heads, then a merge of one entity.
    let (mut ada, mut bob) = (Author::new(1), Author::new(2));
    let mut all = Author::new(3);
    let mut pushed = Vec::new();
    for n in [200, 7, 40] {
        let (mine, theirs) = (ada.edit(entity(n), "mine"), bob.edit(entity(n), "theirs"));
        pushed.extend([mine, theirs]);
    }
    ada.learn(&pushed[1]);
    pushed.push(ada.edit(entity(200), "merged"));
    pushed.iter().for_each(|envelope| all.learn(envelope));
    push(&backend, &home, pushed).await;

    let heads: BTreeMap<_, _> = [200, 7, 40].map(|n| (entity(n), all.heads(entity(n)))).into();
    assert_eq!(heads.values().map(|heads| heads.hashes().len()).collect::<Vec<_>>(), [2, 2, 1]);
    let mut digest = SpaceDigest::default();
    heads.iter().for_each(|(entity, heads)| digest.add(entity, heads));
    let overview = backend.overview(home.clone()).await.unwrap();
    assert_eq!((overview.head.seq, overview.entities, overview.changes), (7, 3, 7));
    assert_eq!(overview.head, backend.head(home).await.unwrap());
    assert_eq!(overview.digest, digest.finish());
    assert!(!backend.is_empty().await.unwrap());
    assert_eq!(pushed_collection(&backend).await, notes());
}

pub(crate) async fn a_reconcile_tells_what_the_space_holds(storage: impl Storage) {
    let backend = storage.open();
    let (home, away) = (space("home"), space("away"));
    let (mut author, mut other) = (Author::new(1), Author::new(2));
    let kept: Vec<_> = (0..3).map(|n| author.edit(entity(1), &n.to_string())).collect();
    push(&backend, &home, kept.clone()).await;
    push(&backend, &home, vec![author.edit(entity(2), "x")]).await;
    let mut sharing = other.edit(entity(3), "y");
    sharing.parent = Some(entity(1));
    push(&backend, &home, vec![sharing.clone()]).await;
    // Another space has nothing to do with it.
    push(&backend, &away, vec![Author::new(3).edit(entity(4), "z")]).await;

    let ask = async |ask: Ask, budget| backend.reconcile(home.clone(), ask, budget).await.unwrap();
    let items = [author.heads(entity(1)), author.heads(entity(2)), other.heads(entity(3))];
    let items: Vec<_> = (1..).zip(&items).map(|(n, heads)| Item::new(entity(n), heads)).collect();
    let (mut same, first) = Reconciler::begin(items.clone()).unwrap();
    let (mark, reply) = ask(first, ALL).await;
    assert_eq!(mark, backend.head(home.clone()).await.unwrap());
    assert_eq!(same.take(reply.unwrap()).unwrap().then, Then::Done);
    assert!(same.differing().is_empty());

    let (mut apart, first) = Reconciler::begin(items[..2].to_vec()).unwrap();
    apart.take(ask(first, ALL).await.1.unwrap()).unwrap();
    assert_eq!(apart.differing().iter().copied().collect::<Vec<_>>(), [entity(3)]);
    let heads = ask(Ask::Heads(vec![entity(1), entity(4)]), ALL).await.1.unwrap();
    assert_eq!(heads, Reply::Heads(vec![author.heads(entity(1)).hashes().to_vec(), Vec::new()]));

    // What lies behind a change that is known is not sent, and the rest comes in pages.
    let known = heads_of(&kept[..1]).hashes().to_vec();
    let wanted = vec![
        Wanted { entity: entity(1), known: known.clone() },
        Wanted { entity: entity(2), known: author.heads(entity(2)).hashes().to_vec() },
        Wanted { entity: entity(3), known: Vec::new() },
    ];
    let all = ask(Ask::Changes { wanted: wanted.clone(), skip: 0 }, ALL).await.1.unwrap();
    let expected = vec![kept[1].clone(), kept[2].clone(), sharing.clone()];
    assert_eq!(all, Reply::Changes { changes: expected, done: 3, skip: 0 });
    let one = PageBudget { bytes: usize::MAX, changes: 1 };
    let page = ask(Ask::Changes { wanted: wanted.clone(), skip: 0 }, one).await.1.unwrap();
    assert_eq!(page, Reply::Changes { changes: vec![kept[1].clone()], done: 0, skip: 1 });
    let page = ask(Ask::Changes { wanted: wanted.clone(), skip: 1 }, one).await.1.unwrap();
    assert_eq!(page, Reply::Changes { changes: vec![kept[2].clone()], done: 2, skip: 0 });
    let page = ask(Ask::Changes { wanted: wanted[2..].to_vec(), skip: 0 }, one).await.1.unwrap();
    assert_eq!(page, Reply::Changes { changes: vec![sharing], done: 1, skip: 0 });

    // Of what is purged, only the marker is there.
    let marker = purge(entity(1), &author.heads(entity(1)));
    push(&backend, &home, vec![marker.clone()]).await;
    let purged = ask(Ask::Changes { wanted: vec![Wanted { entity: entity(1), known }], skip: 0 }, ALL).await;
    assert_eq!(purged.1.unwrap(), Reply::Changes { changes: vec![marker], done: 1, skip: 0 });

    let (_, unreadable) = ask(Ask::Sketch(vec![9]), ALL).await;
    assert!(unreadable.is_err());
}

pub(crate) async fn an_unknown_mark_is_noticed(storage: impl Storage) {
    let backend = storage.open();
    let home = space("home");
    let mut author = Author::new(1);
    let (_, marks) = push(&backend, &home, vec![author.edit(entity(1), "a"), author.edit(entity(1), "b")]).await;
    let other_chain = Mark { seq: 1, chain: Digest::of(b"another log") };
    let beyond = Mark { seq: 3, chain: marks[1].chain };
    let far_beyond = Mark { seq: u64::MAX, chain: marks[1].chain };
    let read = async |space: &str, after, check: &[Mark]| {
        backend.read(crate::changes::space(space), after, check.to_vec(), ALL).await.unwrap()
    };
    assert!(matches!(read("home", marks[0], &marks).await, LogPage::Rows { rows, .. } if rows.len() == 1));
    for bad in [other_chain, beyond, far_beyond, Mark { seq: 0, chain: marks[0].chain }] {
        assert!(matches!(read("home", Mark::START, &[marks[0], bad]).await, LogPage::Unknown), "{bad:?}");
        assert!(matches!(read("home", bad, &[]).await, LogPage::Unknown), "{bad:?}");
    }
    // A space that was never written to has no marks at all.
    assert!(matches!(read("other", Mark::START, &[marks[0]]).await, LogPage::Unknown));
    assert!(matches!(read("other", marks[0], &[]).await, LogPage::Unknown));
    assert!(matches!(read("other", Mark::START, &[]).await, LogPage::Rows { rows, more: false } if rows.is_empty()));
}

async fn pushed_collection(backend: &Arc<dyn Backend>) -> CollectionName {
    log(backend, &space("home")).await.remove(0).1.collection
}

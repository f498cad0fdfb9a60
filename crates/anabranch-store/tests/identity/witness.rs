//! Which actor writes on, and what is told of files that are gone.

use std::fs;
use std::path::{Path, PathBuf};

use anabranch_core::{Actor, ErrorKind, SplitMix64};
use anabranch_store::{Loss, OpenMode, Store, StoreError};
use serde_json::json;

use crate::device::{Device, Outcome, schema};
use crate::server::Server;

fn folder() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("a.db");
    (folder, path)
}

fn witness(path: &Path) -> PathBuf {
    PathBuf::from(format!("{}-witness", path.display()))
}

fn copy(from: &Path, to: &Path) {
    fs::copy(from, to).expect("a copy");
}

/// Opens, writes something, closes; the actor.
fn session(path: &Path, seed: u64) -> Actor {
    let device = Device::open(path, seed);
    device.create(json!({ "title": "x" })).expect("an entity");
    device.store.actor()
}

#[test]
#[cfg(unix)]
fn an_actor_lasts_from_a_clean_close_to_the_next_open() {
    let (_folder, path) = folder();
    let first = session(&path, 1);
    assert_eq!((session(&path, 2), session(&path, 3)), (first.clone(), first.clone()));
    // Two at once: each has its own.
    let (one, two) = (Device::open(&path, 4), Device::open(&path, 5));
    for device in [&one, &two] {
        device.create(json!({ "title": "y" })).expect("an entity");
    }
    assert_eq!(one.store.actor(), first);
    assert_ne!(two.store.actor(), first);
    // One that only looks changes nothing.
    drop(Device::open(&path, 9));
    // A process that dies says no farewell.
    std::mem::forget(one.store);
    drop(two);
    assert_ne!(session(&path, 6), first);
}

#[test]
#[cfg(unix)]
fn g10_no_copy_and_no_restored_file_writes_under_its_original_s_actor() {
    let (folder, path) = folder();
    let first = session(&path, 1);
    let beside = folder.path().join("beside.db");
    let backup = folder.path().join("backup.db");
    for name in [&beside, &backup] {
        copy(&path, name);
        copy(&witness(&path), &witness(name));
    }
    assert_ne!(session(&beside, 2), first, "a copy with its witness");
    // Put back in place while nothing was written since: the same bytes in the same inode, and yet not untouched.
    copy(&backup, &path);
    copy(&witness(&backup), &witness(&path));
    let restored = session(&path, 3);
    assert_ne!(restored, first, "restored with its witness");
    copy(&backup, &path);
    assert_ne!(session(&path, 4), restored, "restored without it");
    fs::remove_file(witness(&path)).expect("a witness");
    assert!(![&first, &restored].contains(&&session(&path, 5)), "no witness");
}

#[test]
fn a_file_that_vanished_is_told_apart_from_a_new_one() -> Outcome {
    let (_folder, path) = folder();
    let device = Device::open(&path, 1);
    let replica = device.store.replica();
    assert_eq!(device.store.lost()?, None);
    device.create(json!({ "title": "x" }))?;
    drop(device);
    for empty in [false, true] {
        fs::remove_file(&path).expect("a file");
        if empty {
            fs::write(&path, b"").expect("a file");
        }
        let existing = Store::open(&path, OpenMode::Existing, environment());
        let Err(StoreError::Lost(lost)) = existing else { panic!("it is gone: {existing:?}") };
        assert_eq!((lost.loss, lost.pending, lost.replica == replica), (Loss::Vanished, 1, !empty));
        assert!(
            lost.to_string().ends_with("is gone; when it was last seen, 1 change was waiting to be sent"),
            "{lost}"
        );
        let anew = Device::open(&path, 2);
        assert_eq!(anew.store.lost()?, Some(*lost));
        assert_ne!(anew.store.replica(), replica);
        anew.create(json!({ "title": "y" }))?;
        drop(anew);
        // Until somebody has been told, however often it is opened.
        let again = Device::open(&path, 3);
        assert!(again.store.lost()?.is_some());
        again.store.write(|write| write.forget_lost()).wait()?;
        assert_eq!(again.store.lost()?, None);
    }
    Ok(())
}

fn environment() -> Box<dyn anabranch_core::Environment> {
    struct Still(SplitMix64);
    impl anabranch_core::Environment for Still {
        fn now(&self) -> i64 {
            1
        }
        fn entropy(&mut self) -> &mut dyn anabranch_core::Entropy {
            &mut self.0
        }
    }
    Box::new(Still(SplitMix64::new(9)))
}

#[test]
fn a_file_that_was_cut_is_not_touched() -> Outcome {
    let (_folder, path) = folder();
    drop(session(&path, 1));
    let whole = fs::read(&path).expect("a file");
    for length in [50, whole.len() / 2, whole.len() - 1] {
        fs::write(&path, &whole[..length]).expect("a file");
        let opened = Store::open(&path, OpenMode::Either(schema()), environment());
        let Err(error @ StoreError::Lost(_)) = opened else { panic!("{length}: {opened:?}") };
        assert_eq!(error.kind(), ErrorKind::Damaged);
        assert_eq!(fs::read(&path).expect("a file"), whole[..length]);
    }
    fs::write(&path, &whole).expect("a file");
    drop(session(&path, 2));
    Ok(())
}

#[test]
fn g10_a_file_that_was_set_back_or_exchanged_says_so() -> Outcome {
    let (folder, path) = folder();
    drop(session(&path, 1));
    let backup = folder.path().join("backup.db");
    copy(&path, &backup);
    let mut server = Server::default();
    let device = Device::open(&path, 2);
    server.push(&device)?;
    device.create(json!({ "title": "never pushed" }))?;
    drop(device);
    copy(&backup, &path);
    let restored = Device::open(&path, 3);
    let lost = restored.store.lost()?.expect("it is older than it was");
    assert_eq!((lost.loss, lost.pending), (Loss::Restored, 1));
    restored.store.write(|write| write.forget_lost()).wait()?;
    drop(restored);
    // Another replica's file in the same place.
    let other = folder.path().join("other.db");
    drop(session(&other, 4));
    copy(&other, &path);
    let exchanged = Device::open(&path, 5);
    assert_eq!(exchanged.store.lost()?.map(|lost| lost.loss), Some(Loss::Replaced));
    // An ordinary restart is no loss.
    exchanged.store.write(|write| write.forget_lost()).wait()?;
    drop(exchanged);
    assert_eq!(Device::open(&path, 6).store.lost()?, None);
    Ok(())
}

/// An hour-old copy put back in place, or opened beside: everything that a server or the copy has is there in the end.
#[test]
fn g10_a_restored_file_gets_back_what_the_server_has_and_offers_what_it_has_itself() -> Outcome {
    for in_place in [true, false] {
        let (folder, path) = folder();
        let mut server = Server::default();
        let device = Device::open(&path, 1);
        let id = device.create(json!({ "title": "one", "body": "" }))?;
        let before = device.create(json!({ "title": "before the copy" }))?;
        let copied = folder.path().join("copy.db");
        drop(device);
        copy(&path, &copied);
        copy(&witness(&path), &witness(&copied));
        let device = Device::open(&path, 2);
        device.title(id, "pushed after the copy")?;
        server.push(&device)?;
        let (path, others) = if in_place {
            drop(device);
            copy(&copied, &path);
            copy(&witness(&copied), &witness(&path));
            (path, Vec::new())
        } else {
            (copied, vec![device])
        };
        let restored = Device::open(&path, 3);
        restored.title(before, "after the restore")?;
        for device in others.iter().chain([&restored]).chain(&others) {
            server.push(device)?;
            server.pull(device)?;
        }
        assert_eq!(restored.state(id)?["title"], "pushed after the copy");
        assert_eq!(restored.state(before)?["title"], "after the restore");
        assert_eq!(restored.digests()?.0, server.digest());
        for device in &others {
            assert_eq!(device.digests()?, restored.digests()?);
        }
        assert!(restored.outbox()?.is_empty());
    }
    Ok(())
}

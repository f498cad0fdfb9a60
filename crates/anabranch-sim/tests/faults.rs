//! Full disks and failing accesses, at each of the first accesses of a replica's and a server's day.

use anabranch_sim::{Access, Failure, Fault, Survived, survive_replica, survive_server};

type Survive = fn(Fault) -> Result<Survived, Failure>;

/// Plays the day with a fault at each of these places. Returns how many faults were met, and how many operations
/// they have refused.
fn survive(survive: Survive, access: Access, lasting: bool, places: impl Iterator<Item = u64>) -> (usize, usize) {
    let (mut met, mut refused) = (0, 0);
    for at in places {
        match survive(Fault { access, at, lasting }) {
            // The day has no more accesses of the kind.
            Ok(Survived { struck: 0, .. }) => break,
            Ok(survived) => (met, refused) = (met + 1, refused + survived.refused),
            Err(failure) => panic!("{access:?} {at}, lasting: {lasting}: {failure}"),
        }
    }
    println!("{access:?}, lasting: {lasting}: {met} faults met, {refused} operations refused and then done");
    (met, refused)
}

#[test]
fn g02_g03_a_replica_survives_a_full_disk_at_each_of_200_writes() {
    let (met, refused) = survive(survive_replica, Access::Room, true, 0..200);
    assert!(met > 100 && refused > 50, "{met} and {refused}");
}

#[test]
fn g02_g03_a_server_survives_a_full_disk_at_each_of_200_writes() {
    let (met, refused) = survive(survive_server, Access::Room, true, 0..200);
    assert!(met > 50 && refused > 25, "{met} and {refused}");
}

#[test]
fn g02_g03_failing_accesses_are_survived() {
    for (name, of) in [("replica", survive_replica as Survive), ("server", survive_server)] {
        println!("{name}");
        for access in Access::ALL {
            // There are many writes in a day, and few of the others.
            let step = if matches!(access, Access::Room | Access::Write) { 17 } else { 1 };
            for lasting in [false, true] {
                let (met, _) = survive(of, access, lasting, (0..200).step_by(step));
                assert!(met > 0, "{access:?}");
            }
        }
    }
}

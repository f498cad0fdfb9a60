//! Whatever the schema, and whatever people do: replicas that have met show the same, byte by byte, and agree on
//! what waits for a person and on what was.

mod acts;
mod replica;
mod schemas;
mod server;

use std::collections::BTreeMap;

use anabranch_core::document::State;
use anabranch_core::{EntityId, Heads, Schema};
use anabranch_sim::Dice;
use proptest::prelude::*;

use acts::{ACTS, Act};
use replica::Replica;
use server::Server;

/// What happens next. Replicas are counted modulo how many there are, and every choice follows from `pick`.
#[derive(Clone, Copy, Debug)]
enum Step {
    Act {
        who: usize,
        act: Act,
        pick: u64,
    },
    /// Opens the file again, as the next schema version if it is not there yet.
    Upgrade {
        who: usize,
    },
    Reopen {
        who: usize,
    },
    /// One gets from another what it lacks, or a part of it, in any order.
    Exchange {
        from: usize,
        to: usize,
        pick: u64,
    },
    Push {
        who: usize,
    },
    Pull {
        who: usize,
    },
    Purge {
        who: usize,
        pick: u64,
    },
    /// Everything that leads to a purge, at once: otherwise it would hardly ever come to that.
    Bury {
        who: usize,
        pick: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0usize..4;
    prop_oneof![
        20 => (who.clone(), prop::sample::select(&ACTS[..]), any::<u64>())
            .prop_map(|(who, act, pick)| Step::Act { who, act, pick }),
        30 => (who.clone(), any::<u64>()).prop_map(|(who, pick)| Step::Act { who, act: Act::Edit, pick }),
        4 => (who.clone(), any::<u64>()).prop_map(|(who, pick)| Step::Act { who, act: Act::Resolve, pick }),
        16 => (who.clone(), who.clone(), any::<u64>()).prop_map(|(from, to, pick)| Step::Exchange { from, to, pick }),
        2 => who.clone().prop_map(|who| Step::Upgrade { who }),
        2 => who.clone().prop_map(|who| Step::Reopen { who }),
        4 => who.clone().prop_map(|who| Step::Push { who }),
        4 => who.clone().prop_map(|who| Step::Pull { who }),
        1 => (who.clone(), any::<u64>()).prop_map(|(who, pick)| Step::Purge { who, pick }),
        1 => (who, any::<u64>()).prop_map(|(who, pick)| Step::Bury { who, pick }),
    ]
}

/// A pick with which an exchange brings everything, once and in order.
const ORDERLY: u64 = 0;

struct Fleet {
    schemas: [Schema; 2],
    replicas: Vec<Replica>,
    server: Server,
    /// What was shown at some heads under a schema version.
    past: BTreeMap<(EntityId, Vec<u8>, u32), State>,
    folder: tempfile::TempDir,
}

impl Fleet {
    fn new(seed: u64, count: usize) -> Self {
        let schemas = schemas::draw(&mut Dice::new(seed));
        // In memory, where the system has such a place: syncs cost nothing there.
        let folder = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).expect("a temporary folder");
        let replicas = (0..count).map(|number| Replica::new(folder.path(), number, &schemas[0])).collect();
        let mut fleet = Self { schemas, replicas, server: Server::default(), past: BTreeMap::new(), folder };
        fleet.begin(seed);
        fleet
    }

    /// A few entities that everyone has.
    fn begin(&mut self, seed: u64) {
        for pick in 0..20 {
            if self.replicas[0].known().entities.len() < 3 {
                self.replicas[0].act(Act::Create, seed.wrapping_add(pick));
            }
        }
        for to in 1..self.replicas.len() {
            self.exchange(0, to, ORDERLY);
        }
    }

    fn step(&mut self, step: Step) {
        let count = self.replicas.len();
        match step {
            Step::Act { who, act, pick } => self.replicas[who % count].act(act, pick),
            Step::Upgrade { who } => self.replicas[who % count].open(&self.schemas[1]),
            Step::Reopen { who } => {
                let version = self.replicas[who % count].version();
                self.replicas[who % count].open(&self.schemas[usize::from(version == 2)]);
            }
            Step::Exchange { from, to, pick } => self.exchange(from % count, to % count, pick),
            Step::Push { who } => self.replicas[who % count].push(&mut self.server),
            Step::Pull { who } => self.replicas[who % count].pull(&self.server),
            Step::Purge { who, pick } => self.replicas[who % count].purge(pick),
            Step::Bury { who, pick } => {
                let replica = &mut self.replicas[who % count];
                replica.pull(&self.server);
                replica.act(Act::Delete, pick);
                replica.push(&mut self.server);
                replica.purge(pick);
                replica.push(&mut self.server);
            }
        }
        if let Step::Act { who, .. } | Step::Exchange { to: who, .. } = step {
            self.note(who % count);
        }
    }

    fn exchange(&self, from: usize, to: usize, pick: u64) {
        if from == to {
            return;
        }
        let mut dice = Dice::new(pick);
        let mut changes = self.replicas[from].beyond(self.replicas[to].heads());
        match dice.below(6) {
            0 => changes.retain(|_| !dice.once_in(4)),
            1 => changes.reverse(),
            2 => changes.extend(changes.clone()),
            3 => {
                let rest = changes.split_off(changes.len() / 2);
                self.replicas[to].receive(rest);
            }
            _ => {}
        }
        self.replicas[to].receive(changes);
    }

    /// Notes what a replica shows of each entity, or finds that another has shown something else at the same
    /// heads.
    fn note(&mut self, who: usize) {
        let replica = &self.replicas[who];
        let version = replica.version();
        for (id, heads) in replica.heads() {
            let key = (id, heads.to_bytes(), version);
            let Some(state) = replica.state_at(id, heads) else { continue };
            match self.past.get(&key) {
                Some(shown) => assert_eq!(*shown, state, "at the same heads of {id}, under version {version}"),
                None => drop(self.past.insert(key, state)),
            }
        }
    }

    /// Everything gets everywhere.
    fn meet(&mut self) {
        for _ in 0..12 {
            for replica in &mut self.replicas {
                replica.push(&mut self.server);
                replica.pull(&self.server);
            }
            for from in 0..self.replicas.len() {
                for to in (0..self.replicas.len()).filter(|to| *to != from) {
                    let changes = self.replicas[from].beyond(self.replicas[to].heads());
                    self.replicas[to].receive(changes);
                }
            }
            let first = self.replicas[0].heads();
            if self.replicas.iter().all(|replica| replica.heads() == first) {
                return;
            }
        }
        panic!("the replicas never have the same heads");
    }

    /// Replicas of the same version show the same, now and for the past that they hold.
    fn check(&self) {
        for version in [1, 2] {
            let same: Vec<_> = self.replicas.iter().filter(|replica| replica.version() == version).collect();
            let Some((first, others)) = same.split_first() else { continue };
            let shown = first.shown();
            for other in others {
                assert_eq!(other.shown(), shown, "under version {version}");
            }
            same.iter().for_each(|replica| replica.check_rows());
        }
        // A few are enough: each is built from the whole history.
        let every = self.past.len() / 24 + 1;
        for ((id, heads, version), state) in self.past.iter().step_by(every) {
            let heads = Heads::from_bytes(heads).expect("heads");
            for replica in self.replicas.iter().filter(|replica| replica.version() == *version) {
                let found = replica.state_at(*id, heads.clone());
                assert!(found.as_ref().is_none_or(|found| found == state), "{found:?} was {state:?}");
                let purged = replica.query(&format!("SELECT 1 FROM entities WHERE id = '{id}' AND purged = 1"));
                assert!(found.is_some() || !purged.is_empty(), "history is kept unless it is purged");
            }
        }
    }

    /// In the end everyone upgrades, and one who was never there before joins.
    fn end(&mut self) {
        self.meet();
        self.check();
        for replica in &mut self.replicas {
            replica.open(&self.schemas[1]);
        }
        self.check();
        let mut late = Replica::new(self.folder.path(), self.replicas.len(), &self.schemas[1]);
        late.pull(&self.server);
        late.receive(self.replicas[0].beyond(late.heads()));
        assert_eq!(late.shown(), self.replicas[0].shown(), "whoever comes late sees the same");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn g04_whatever_the_schema_and_whatever_people_do_replicas_converge(
        seed: u64,
        count in 2usize..=4,
        steps in prop::collection::vec(step(), 1..70),
    ) {
        let mut fleet = Fleet::new(seed, count);
        for step in steps {
            fleet.step(step);
        }
        fleet.end();
    }
}

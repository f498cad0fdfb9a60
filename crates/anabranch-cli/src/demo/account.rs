//! What the demo found out: the same facts for a person and for a program.

use anabranch::SyncReport;
use serde::Serialize;
use serde_json::Value;

use crate::demo::fleet::Fleet;
use crate::demo::server::DemoServer;
use crate::error::CliError;

/// Everything the demo reports.
#[derive(Debug, Default, Serialize)]
pub(super) struct Account {
    /// Whether all replicas and the server hold the same, and all that must hold does.
    pub(super) agree: bool,
    /// What does not.
    pub(super) disagreements: Vec<String>,
    pub(super) replicas: Vec<ReplicaAccount>,
    pub(super) server: ServerAccount,
    /// What a sync said while the server was away.
    pub(super) unreachable: Option<String>,
    pub(super) contested: Vec<Contested>,
    pub(super) merged: Vec<Merged>,
    pub(super) typing: TypingAccount,
    pub(super) crash: Option<CrashAccount>,
    /// A sync with nothing new on either side.
    pub(super) idle_sync: SyncReport,
    pub(super) seconds: Seconds,
    /// Where the files are, if they are kept.
    pub(super) folder: Option<String>,
}

#[derive(Debug, Serialize)]
pub(super) struct ReplicaAccount {
    pub(super) name: String,
    pub(super) file: String,
    pub(super) id: String,
    /// What it did while it was cut off.
    pub(super) offline: Vec<String>,
    /// Changes that waited when it came back.
    pub(super) waited: u64,
    /// The sum of its syncs after that.
    pub(super) sync: SyncReport,
    pub(super) entities: u64,
    pub(super) pending: u64,
    /// Of the states, as an application sees them.
    pub(super) state_digest: String,
    /// Of the changes.
    pub(super) space_digest: String,
}

/// The server relays changes and never loads a document: it has no states.
#[derive(Debug, Default, Serialize)]
pub(super) struct ServerAccount {
    pub(super) entities: u64,
    pub(super) changes: u64,
    pub(super) space_digest: String,
}

/// A field in which concurrent writes left several values.
#[derive(Debug, Serialize)]
pub(super) struct Contested {
    pub(super) entity: String,
    pub(super) field: String,
    /// Why the first value is the one that shows.
    pub(super) settled_by: &'static str,
    /// The values, the one that shows first.
    pub(super) values: Vec<Contender>,
}

#[derive(Debug, Serialize)]
pub(super) struct Contender {
    pub(super) value: Value,
    pub(super) replica: String,
    /// When it was written, by the writer's clock.
    pub(super) millis: i64,
    /// The whole stamp, with its counter.
    pub(super) stamp: i64,
}

/// A field to which everyone's edit contributed, with nothing contested.
#[derive(Debug, Serialize)]
pub(super) struct Merged {
    pub(super) field: &'static str,
    pub(super) kind: &'static str,
    pub(super) outcome: Value,
    pub(super) how: String,
    /// Whether it is what the edits must lead to.
    pub(super) as_expected: bool,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct TypingAccount {
    pub(super) source: String,
    /// Keystrokes typed before the replicas were cut off.
    pub(super) shared: usize,
    /// Keystrokes typed by each replica while it was cut off.
    pub(super) shares: Vec<usize>,
    /// The characters of the text at the end.
    pub(super) characters: usize,
    /// Whether all replicas have the same text.
    pub(super) same_text: bool,
    /// With one replica: whether the text is the one that the trace ends with.
    pub(super) is_end_content: Option<bool>,
    /// How the text begins.
    pub(super) beginning: String,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct CrashAccount {
    /// After how many printed ids the writer was killed, each time.
    pub(super) killed_after: Vec<u64>,
    /// Ids that it had printed.
    pub(super) acknowledged: u64,
    /// Entities in its file; some may have been durable and not printed yet.
    pub(super) in_file: u64,
    /// Printed ids that are not in the file.
    pub(super) lost: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(super) struct Seconds {
    pub(super) typing: f64,
    pub(super) syncing: f64,
    pub(super) total: f64,
}

impl Account {
    /// The replicas and the server as they are now.
    pub(super) fn begin(
        fleet: &Fleet,
        server: &DemoServer,
        reports: &[SyncReport],
        pending: &[u64],
        deeds: &[Vec<String>],
    ) -> Result<Self, CliError> {
        let mut replicas = Vec::new();
        for (number, member) in fleet.members.iter().enumerate() {
            let status = member.replica.status()?;
            replicas.push(ReplicaAccount {
                name: member.name.clone(),
                file: member.file.display().to_string(),
                id: member.replica.id().to_string(),
                offline: deeds.get(number).cloned().unwrap_or_default(),
                waited: pending.get(number).copied().unwrap_or_default(),
                sync: reports.get(number).copied().unwrap_or_default(),
                entities: status.entities,
                pending: status.pending,
                state_digest: member.replica.state_digest(&fleet.space)?.to_string(),
                space_digest: member.replica.space_digest(&fleet.space)?.to_string(),
            });
        }
        let overview = server.overview(&fleet.space)?;
        let space_digest = overview.digest.to_string();
        let server = ServerAccount { entities: overview.entities, changes: overview.changes, space_digest };
        Ok(Self { replicas, server, ..Self::default() })
    }

    /// Looks for anything that is not as it must be.
    pub(super) fn judge(&mut self) {
        let mut wrong = Vec::new();
        let first_state = self.replicas.first().map(|replica| replica.state_digest.clone());
        for replica in &self.replicas {
            let name = &replica.name;
            if Some(&replica.state_digest) != first_state.as_ref() {
                wrong.push(format!("the state of {name} is another than that of {}", self.replicas[0].name));
            }
            if replica.space_digest != self.server.space_digest {
                wrong.push(format!("{name} does not hold the same changes as the server"));
            }
            if replica.pending > 0 {
                wrong.push(format!("{name} still has {} pending changes", replica.pending));
            }
        }
        let unexpected = self.merged.iter().filter(|merged| !merged.as_expected);
        wrong.extend(unexpected.map(|merged| format!("{} is {}, which is wrong", merged.field, merged.outcome)));
        if self.unreachable.is_none() {
            wrong.push("a sync came through although the server was stopped".to_owned());
        }
        if !self.typing.same_text {
            wrong.push("the typed text differs".to_owned());
        }
        if self.typing.is_end_content == Some(false) {
            wrong.push("the typed text is not the one that the trace ends with".to_owned());
        }
        if let Some(crash) = self.crash.as_ref().filter(|crash| !crash.lost.is_empty()) {
            wrong.push(format!("{} acknowledged entities are lost", crash.lost.len()));
        }
        self.agree = wrong.is_empty();
        self.disagreements = wrong;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(name: &str, state: &str, space: &str) -> ReplicaAccount {
        ReplicaAccount {
            name: name.to_owned(),
            file: String::new(),
            id: String::new(),
            offline: Vec::new(),
            waited: 0,
            sync: SyncReport::default(),
            entities: 0,
            pending: 0,
            state_digest: state.to_owned(),
            space_digest: space.to_owned(),
        }
    }

    fn good() -> Account {
        Account {
            replicas: vec![replica("a", "s", "d"), replica("b", "s", "d")],
            server: ServerAccount { space_digest: "d".to_owned(), ..ServerAccount::default() },
            unreachable: Some("offline".to_owned()),
            typing: TypingAccount { same_text: true, ..TypingAccount::default() },
            crash: Some(CrashAccount::default()),
            ..Account::default()
        }
    }

    #[test]
    fn every_disagreement_is_found_and_named() {
        type Spoil = fn(&mut Account);
        let spoils: [(&str, Spoil); 7] = [
            ("the state of b", |account| account.replicas[1].state_digest.push('x')),
            ("b does not hold", |account| account.replicas[1].space_digest.push('x')),
            ("a still has 1", |account| account.replicas[0].pending = 1),
            ("was stopped", |account| account.unreachable = None),
            ("text differs", |account| account.typing.same_text = false),
            ("ends with", |account| account.typing.is_end_content = Some(false)),
            ("1 acknowledged", |account| {
                account.crash = Some(CrashAccount { lost: vec![String::new()], ..CrashAccount::default() })
            }),
        ];
        for (expected, spoil) in spoils {
            let mut account = good();
            account.judge();
            assert!(account.agree, "{:?}", account.disagreements);
            spoil(&mut account);
            account.judge();
            assert!(!account.agree && account.disagreements[0].contains(expected), "{:?}", account.disagreements);
        }
    }
}

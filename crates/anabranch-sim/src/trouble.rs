//! A server, or something before it, that answers otherwise than it should: too busy, too large, not allowed, broken in
//! the middle, or only a part of what was asked for.

use anabranch_core::sync::{Pushable, Unreadable};
use anabranch_core::wire::{self, Answer, ClientMessage, RefusalCode, RejectCode, ServerMessage};

use crate::client::Ended;
use crate::dice::Dice;
use crate::failure::{Failure, broken};
use crate::fleet::Fleet;
use crate::server::Connection;

/// What is wrong with the next thing that the server does for a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Trouble {
    /// Its storage fails; how, if it has a disk.
    Fails { pick: u64 },
    /// It turns down a part of a push: for now, or for good.
    Turns { pick: u64, for_good: bool },
}

impl Fleet {
    /// Something goes wrong between a client and the server, or behind it.
    pub(crate) fn trouble(&mut self, client: usize, pick: u64) -> Result<(), Failure> {
        let mut dice = Dice::new(pick);
        let Some(connection) = &mut self.connections[client] else { return Ok(()) };
        let what = match dice.below(8) {
            0 => {
                self.end_link(client, Ended::Unavailable);
                "503"
            }
            1 => {
                let millis = u32::try_from(dice.below(30_000)).unwrap_or(0);
                self.end_link(client, Ended::Busy(millis));
                "429"
            }
            2 if connection.is_pushing() => {
                self.end_link(client, Ended::TooLarge);
                self.turned_down = true;
                "413"
            }
            3 => {
                connection.refuse(RefusalCode::Forbidden, None)?;
                "401"
            }
            4 => {
                connection.refuse(RefusalCode::Unavailable, Some(1 + u32::try_from(dice.below(9_000)).unwrap_or(0)))?;
                "unavailable"
            }
            5 => {
                connection.trouble = Some(Trouble::Fails { pick: dice.any() });
                "the storage will fail"
            }
            _ => {
                let for_good = dice.once_in(4);
                self.turned_down |= for_good;
                connection.trouble = Some(Trouble::Turns { pick: dice.any(), for_good });
                "a push will be turned down in part"
            }
        };
        self.note(format_args!("server, to client {client}: {what}"));
        Ok(())
    }

    fn end_link(&mut self, client: usize, ended: Ended) {
        // What was sent has not been read.
        if let Some(connection) = &mut self.connections[client] {
            connection.to_server.clear();
        }
        self.forsake(client);
        if let Some(process) = &mut self.clients[client].process {
            process.ended = Some(ended);
        }
    }
}

impl Connection {
    /// Whether the next frame that the server would read is a push.
    fn is_pushing(&self) -> bool {
        self.to_server.front().is_some_and(|frame| matches!(wire::decode(frame), Ok(ClientMessage::Push(_))))
    }

    /// Whether a part of the next push is turned down for good.
    pub(crate) const fn turns_down(&self) -> bool {
        matches!(self.trouble, Some(Trouble::Turns { for_good: true, .. }))
    }

    fn refuse(&mut self, code: RefusalCode, retry_after_millis: Option<u32>) -> Result<(), Failure> {
        let message = ServerMessage::Refused { code, message: "not now".to_owned(), retry_after_millis };
        self.to_client.push_back(wire::encode(&message).map_err(broken("a server's frame"))?);
        self.close();
        Ok(())
    }
}

/// Some of a batch is not taken, whatever it is.
pub(crate) fn turn_down(batch: Vec<Pushable>, pick: u64, for_good: bool) -> Vec<Pushable> {
    let mut dice = Dice::new(pick);
    let code = if for_good { RejectCode::TooLarge } else { RejectCode::Unavailable };
    let answer = Answer::Rejected { code, message: "not this one".to_owned(), retryable: !for_good };
    let turned = batch.into_iter().map(|offered| match offered {
        Ok(offered) if dice.once_in(3) => Err(Unreadable { transaction: offered.transaction, answer: answer.clone() }),
        other => other,
    });
    turned.collect()
}

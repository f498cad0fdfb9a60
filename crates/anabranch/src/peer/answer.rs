//! The side that has listened: it answers.

use anabranch_core::SpaceName;
use anabranch_core::sync::reconcile::{MAX_ASKED, MAX_ITEMS, MAX_KNOWN, SketchError, answer_sketch, heads_reply};
use anabranch_core::wire::{Ask, PeerMessage, Reply, Wanted};
use anabranch_store::{Store, StoreError};

use crate::peer::PeerError;
use crate::peer::session::{Session, Written};

/// Hashes that a peer may name in one request for changes, of all entities.
const MAX_HASHES: usize = 4_000_000;

/// What has been asked for so far.
#[derive(Default)]
struct Request {
    space: Option<SpaceName>,
    wanted: Vec<Wanted>,
    hashes: usize,
}

impl Session {
    /// Answers until the other side hangs up.
    pub(super) async fn answer(&mut self) -> Result<(), PeerError> {
        let written = Written::of(&self.store)?;
        let mut request = Request::default();
        loop {
            let message = tokio::select! {
                message = self.channel.receive() => message?,
                spaces = written.next() => {
                    for space in spaces? {
                        // Whoever leads may have got what it wanted and hung up: then the next message tells.
                        if self.allowed.includes(&space)
                            && self.channel.send(&PeerMessage::Poke(space)).await.is_err()
                        {
                            break;
                        }
                    }
                    continue;
                }
            };
            match message {
                None => return Ok(()),
                Some(PeerMessage::Spaces { spaces, only }) => {
                    self.allowed.restrict(&spaces, only);
                    let ours = self.spaces()?;
                    self.channel.send(&ours).await?;
                }
                Some(PeerMessage::Ask { space, ask }) => {
                    self.check_space(&space)?;
                    let reply = reply(self.store.clone(), space, ask).await?;
                    self.channel.send(&PeerMessage::Reply(reply)).await?;
                }
                Some(PeerMessage::Want { space, wanted, last }) => {
                    self.check_space(&space)?;
                    request.add(&space, wanted)?;
                    if last {
                        let Request { wanted, .. } = std::mem::take(&mut request);
                        self.hand_over(&space, wanted, true).await?;
                    }
                }
                Some(PeerMessage::Changes { space, changes, whole, last }) => {
                    self.take(&space, changes, whole).await?;
                    if last {
                        self.end_stream();
                    }
                }
                Some(PeerMessage::Poke(_)) => {}
                Some(
                    PeerMessage::Hello(_)
                    | PeerMessage::Proof(_)
                    | PeerMessage::Reply(_)
                    | PeerMessage::Declined { .. },
                )
                | Some(PeerMessage::Received { .. }) => {
                    return Err(PeerError::Protocol("it answered what it was not asked".to_owned()));
                }
            }
        }
    }
}

async fn reply(store: Store, space: SpaceName, ask: Ask) -> Result<Reply, PeerError> {
    // A large space takes a while, on a thread where it may.
    let looked = tokio::task::spawn_blocking(move || match ask {
        Ask::Sketch(sketch) => {
            let items = store.read(|read| read.items(&space))?;
            match answer_sketch(items, &sketch) {
                Err(SketchError::TooMany) => Ok(Reply::TooMany),
                answer => answer.map(Reply::Sketch).map_err(|error| PeerError::Protocol(error.to_string())),
            }
        }
        Ask::Heads(entities) if (1..=MAX_ASKED).contains(&entities.len()) => {
            let heads = |id: &_| store.read(|read| read.heads_of(&space, *id));
            heads_reply::<StoreError>(entities.iter().map(heads)).map_err(PeerError::Store)
        }
        _ => Err(PeerError::Protocol("it asked what a peer does not answer".to_owned())),
    });
    looked.await.map_err(|_| PeerError::Broken("an answer panicked".to_owned()))?
}

impl Request {
    fn add(&mut self, space: &SpaceName, wanted: Vec<Wanted>) -> Result<(), PeerError> {
        let same = *self.space.get_or_insert_with(|| space.clone()) == *space;
        self.hashes += wanted.iter().map(|wanted| wanted.known.len()).sum::<usize>();
        let fits = wanted.iter().all(|wanted| wanted.known.len() <= MAX_KNOWN) && self.hashes <= MAX_HASHES;
        self.wanted.extend(wanted);
        if same && fits && self.wanted.len() <= MAX_ITEMS {
            Ok(())
        } else {
            Err(PeerError::Protocol("it asks for too much at once".to_owned()))
        }
    }
}

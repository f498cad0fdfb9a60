//! Messages in a few words, for the trace.

use anabranch_core::wire::{Ask, ClientMessage, Reply, ServerMessage};

/// What a client asks, in a few words.
pub(super) struct Asked<'a>(pub(super) &'a ClientMessage);

impl std::fmt::Display for Asked<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ClientMessage::Hello(hello) => write!(f, "hello, lineage {:?}", hello.lineage),
            ClientMessage::Push(push) => {
                write!(f, "push {} of {}: {} changes", push.id, push.space, push.changes.len())
            }
            ClientMessage::Pull(pull) => write!(
                f,
                "pull {} (cursor: {}, ack: {:?})",
                pull.space,
                pull.cursor.is_some(),
                pull.ack.map(|mark| mark.seq)
            ),
            ClientMessage::Received { space } => write!(f, "received a page of {space}"),
            ClientMessage::Presence { space, .. } => write!(f, "shows something in {space}"),
            ClientMessage::Reconcile { space, ask } => write!(f, "reconcile {space}: {}", asked(ask)),
            ClientMessage::Segment { space, digest } => write!(f, "segment {digest} of {space}"),
        }
    }
}

/// What the server says, in a few words.
pub(super) struct Said<'a>(pub(super) &'a ServerMessage);

impl std::fmt::Display for Said<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0 {
            ServerMessage::Welcome(_) => f.write_str("welcome"),
            ServerMessage::Pushed(pushed) => {
                write!(f, "pushed {} of {}: {:?}", pushed.id, pushed.space, pushed.answers)
            }
            ServerMessage::Changes { space, changes, more, .. } => {
                write!(f, "{} changes of {space}, more: {more}", changes.len())
            }
            ServerMessage::CursorUnknown { space } => write!(f, "the cursor of {space} is unknown"),
            ServerMessage::Reconciled { space, reply, at } => {
                write!(f, "reconciled {space} (at {:?}): {}", at.as_ref().map(|(_, mark)| mark.seq), replied(reply))
            }
            ServerMessage::Refused { code, message, .. } => write!(f, "refused: {code:?}, {message}"),
            ServerMessage::Poke { space } => write!(f, "there is more of {space}"),
            ServerMessage::Presence { space, replica, .. } => write!(f, "{replica} shows something in {space}"),
            ServerMessage::Manifest { space, manifest } => {
                write!(f, "{} segments of {space}, up to {}", manifest.pieces.len(), manifest.mark.seq)
            }
            ServerMessage::Segment { digest, bytes, .. } => {
                write!(f, "segment {digest}: {:?} bytes", bytes.as_ref().map(Vec::len))
            }
            ServerMessage::Behind { space, changes } => write!(f, "{changes} more changes of {space}"),
        }
    }
}

fn asked(ask: &Ask) -> String {
    match ask {
        Ask::SketchOf { message, .. } => format!("a sketch of {} bytes, of a subset", message.len()),
        Ask::Sketch(sketch) => format!("a sketch of {} bytes", sketch.len()),
        Ask::Heads(entities) => format!("the heads of {} entities", entities.len()),
        Ask::Changes { wanted, skip } => format!("the changes of {} entities, but {skip}", wanted.len()),
    }
}

fn replied(reply: &Reply) -> String {
    match reply {
        Reply::Sketch(sketch) => format!("a sketch of {} bytes", sketch.len()),
        Reply::Heads(heads) => format!("the heads of {} entities", heads.len()),
        Reply::Changes { changes, done, skip } => {
            format!("{} changes; {done} are done, and {skip} more", changes.len())
        }
        Reply::TooMany => "too much".to_owned(),
    }
}

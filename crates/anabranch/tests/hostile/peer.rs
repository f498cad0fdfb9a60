//! A peer that knows the token and sends what no honest one has.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread::{self, JoinHandle};

use anabranch_core::sync::{Handshake, PeerRole, PeerSeal, PeerToken, SEAL_BYTES};
use anabranch_core::wire::{self, HEADER_BYTES, PeerHello, PeerMessage};
use anabranch_core::{ReplicaId, SpaceName};

use super::stock::{Batch, Stock};

pub(crate) struct Rogue {
    stream: TcpStream,
    /// What seals its frames, and those of the other side; none before the handshake is over.
    seals: Option<(PeerSeal, PeerSeal)>,
}

impl Rogue {
    pub(crate) fn dial(address: SocketAddr, token: &PeerToken) -> Self {
        let stream = TcpStream::connect(address).expect("a listener");
        Self::greet(stream, token, PeerRole::Dialler)
    }

    /// Listens for one peer, which is told of the batch and sent it.
    pub(crate) fn listen(token: PeerToken, space: SpaceName, batch: Batch) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let answering = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("a connection");
            Self::greet(stream, &token, PeerRole::Listener).answer(&space, batch);
        });
        (address, answering)
    }

    fn greet(stream: TcpStream, token: &PeerToken, role: PeerRole) -> Self {
        let mut rogue = Self { stream, seals: None };
        let ours = PeerHello { replica: ReplicaId::from_bytes([66; 16]), nonce: [6; 32] };
        rogue.say(&PeerMessage::Hello(ours));
        let Some(PeerMessage::Hello(theirs)) = rogue.hear() else { panic!("no hello") };
        let dials = matches!(role, PeerRole::Dialler);
        let handshake =
            if dials { Handshake::new(token, &ours, &theirs) } else { Handshake::new(token, &theirs, &ours) };
        let proof = PeerMessage::Proof(handshake.proof(role));
        if dials {
            rogue.say(&proof);
        }
        let Some(PeerMessage::Proof(_)) = rogue.hear() else { panic!("no proof") };
        if !dials {
            rogue.say(&proof);
        }
        rogue.seals = Some((handshake.seal(role), handshake.seal(role.other())));
        rogue
    }

    /// Hands the batch over unasked. Returns how much of it was taken.
    pub(crate) fn push(mut self, space: &SpaceName, batch: Batch) -> u64 {
        self.say(&PeerMessage::Spaces { spaces: vec![space.clone()], only: false });
        self.say(&PeerMessage::Changes { space: space.clone(), changes: batch.changes, whole: true, last: true });
        loop {
            match self.hear() {
                Some(PeerMessage::Received { taken }) => return taken,
                Some(PeerMessage::Spaces { .. } | PeerMessage::Poke(_)) => {}
                other => panic!("instead of an answer: {other:?}"),
            }
        }
    }

    /// Answers until the other side hangs up.
    fn answer(mut self, space: &SpaceName, batch: Batch) {
        let mut stock = Stock::default();
        stock.add(batch);
        let mut asked = Vec::new();
        while let Some(message) = self.hear() {
            match message {
                PeerMessage::Spaces { .. } => {
                    self.say(&PeerMessage::Spaces { spaces: vec![space.clone()], only: false });
                }
                PeerMessage::Ask { ask, .. } => self.say(&PeerMessage::Reply(stock.reply(ask))),
                PeerMessage::Want { wanted, last, .. } => {
                    asked.extend(wanted);
                    if last {
                        let changes = asked.drain(..).flat_map(|wanted| stock.changes(&wanted.entity)).collect();
                        self.say(&PeerMessage::Changes { space: space.clone(), changes, whole: true, last: true });
                    }
                }
                PeerMessage::Changes { whole: true, .. } => self.say(&PeerMessage::Received { taken: 0 }),
                _ => {}
            }
        }
    }

    fn say(&mut self, message: &PeerMessage) {
        let mut frame = wire::encode(message).expect("it fits");
        if let Some((ours, _)) = &mut self.seals {
            let seal = ours.next(&frame);
            frame.extend(seal);
        }
        self.stream.write_all(&frame).expect("the other side reads");
    }

    /// The next message; `None` if the other side has hung up.
    fn hear(&mut self) -> Option<PeerMessage> {
        let mut frame = vec![0; HEADER_BYTES];
        self.stream.read_exact(&mut frame).ok()?;
        let header = frame.first_chunk().expect("a header");
        let length = wire::body_length(header).expect("the other side is honest");
        frame.resize(HEADER_BYTES + length, 0);
        self.stream.read_exact(&mut frame[HEADER_BYTES..]).ok()?;
        if let Some((_, theirs)) = &mut self.seals {
            let mut seal = [0; SEAL_BYTES];
            self.stream.read_exact(&mut seal).ok()?;
            assert!(theirs.is_next(&frame, &seal), "the other side is honest");
        }
        Some(wire::decode(&frame).expect("the other side is honest"))
    }
}

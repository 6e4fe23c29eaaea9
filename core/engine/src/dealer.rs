//! A capture file read by several threads: one walks from packet to packet and deals the segments, the others are engines.
//!
//! Owns who reads what: all segments of a connection go to one engine, in their order, so that each engine measures
//! as if it read the file alone. What belongs to no connection is booked here. At most [`WAITING`] hands of [`HAND`]
//! segments wait for each engine.

use crate::account::{Account, Cause};
use crate::bytes::decode::{Decoded, Decoder, Whole};
use crate::bytes::link;
use crate::bytes::segment::Segment;
use crate::bytes::source::{Broken, File, Found, Record};
use crate::options::Options;
use crate::Engine;
use std::sync::mpsc::{sync_channel, Receiver, Sender, SyncSender};

const HAND: usize = 512;
const WAITING: usize = 16;

/// What an engine is to read.
enum Dealt<'a> {
    Segment(Segment<'a>),
    /// A datagram that came in fragments, and when it was whole.
    Datagram(Box<Whole>, i64),
    /// Lines of a key log.
    Secrets(&'a [u8]),
}

type Hand<'a> = Vec<Dealt<'a>>;

pub struct Dealer {
    decoder: Decoder,
    file: File,
    account: Account,
    hasher: ahash::RandomState,
}

impl Dealer {
    pub fn new(options: &Options) -> Self {
        Dealer {
            decoder: Decoder::new(options.vxlan.clone()),
            file: File::default(),
            account: Account::default(),
            // The same every time, so that a capture is dealt alike in each run.
            hasher: ahash::RandomState::with_seeds(1, 2, 3, 4),
        }
    }

    /// Begins another capture file; connections go on.
    pub fn next_file(&mut self) {
        self.file = File::default();
    }

    /// Reads whole records of a capture file from `b`, each connection's by one of the engines; returns how many
    /// bytes they took. The rest is to be given again with what follows it.
    pub fn feed_file(&mut self, b: &[u8], engines: &mut [&mut Engine]) -> Result<usize, Broken> {
        std::thread::scope(|scope| {
            let seats = engines
                .iter_mut()
                .map(|engine| {
                    let (give, take) = sync_channel(WAITING);
                    let (give_back, emptied) = std::sync::mpsc::channel();
                    let engine: &mut Engine = engine;
                    scope.spawn(move || play(engine, &take, &give_back));
                    Seat {
                        hand: Vec::with_capacity(HAND),
                        give,
                        emptied,
                    }
                })
                .collect();
            let mut round = Round { seats };
            let end = self.walk(b, &mut round);
            round.seats.iter_mut().for_each(Seat::hand_over);
            end
        })
    }

    fn walk<'a>(&mut self, b: &'a [u8], round: &mut Round<'a>) -> Result<usize, Broken> {
        let mut file = std::mem::take(&mut self.file);
        let end = file.each(b, |found| match found {
            Found::Packet(record) => self.packet(&record, b, round),
            Found::Secrets(keys) => {
                for seat in 0..round.seats.len() {
                    round.deal(seat, Dealt::Secrets(&b[keys.clone()]));
                }
            }
        });
        self.file = file;
        end
    }

    #[inline]
    fn packet<'a>(&mut self, r: &Record, b: &'a [u8], round: &mut Round<'a>) {
        let frame = &b[r.start..r.end];
        let network = link::network(r.link, frame);
        let mut lost = 0;
        let found = self
            .decoder
            .decode(network, r.time, r.orig, frame, &mut lost);
        if let Decoded::Tcp(segment) = found {
            let seat = self.seat(&segment, round);
            round.deal(seat, Dealt::Segment(segment));
        } else {
            self.account.bytes += r.orig;
            self.account.packets += 1;
            match found {
                Decoded::Other(cause) => self.account.add(cause, r.orig),
                Decoded::Whole(datagram) => self.datagram(datagram, r.time, round, &mut lost),
                Decoded::Tcp(_) | Decoded::Held => {}
            }
        }
        self.account.add(Cause::Gap, lost);
    }

    /// Which engine reads a connection, whoever sends.
    #[inline]
    fn seat(&self, s: &Segment, round: &Round) -> usize {
        let (from, to) = ((s.src, s.sport), (s.dst, s.dport));
        let ends = if from < to { (from, to) } else { (to, from) };
        (self.hasher.hash_one(ends) >> 32) as usize % round.seats.len()
    }

    /// Its packets have been counted here, so far.
    fn datagram<'a>(&mut self, whole: Whole, time: i64, round: &mut Round<'a>, lost: &mut u64) {
        let (size, packets) = (whole.size, u64::from(whole.packets));
        match self.decoder.inside(&whole, time, lost) {
            Decoded::Tcp(segment) => {
                let seat = self.seat(&segment, round);
                self.account.bytes -= size;
                self.account.packets -= packets;
                round.deal(seat, Dealt::Datagram(Box::new(whole), time));
            }
            Decoded::Other(cause) => self.account.add(cause, size),
            Decoded::Held => {}
            Decoded::Whole(inner) => self.datagram(inner, time, round, lost),
        }
    }

    /// Gives up on fragments whose datagrams are not whole; afterwards every byte that was not dealt is booked.
    pub fn finish(&mut self) {
        let lost = self.decoder.finish();
        self.account.add(Cause::Gap, lost);
    }

    /// Of what belongs to no connection.
    pub fn account(&self) -> &Account {
        &self.account
    }
}

/// Where an engine sits: the hand that is being dealt to it.
struct Seat<'a> {
    hand: Hand<'a>,
    give: SyncSender<Hand<'a>>,
    emptied: Receiver<Hand<'a>>,
}

impl Seat<'_> {
    fn hand_over(&mut self) {
        let next = self
            .emptied
            .try_recv()
            .unwrap_or_else(|_| Vec::with_capacity(HAND));
        // It fails where the engine's thread has panicked; the scope then says so.
        let _ = self.give.send(std::mem::replace(&mut self.hand, next));
    }
}

struct Round<'a> {
    seats: Vec<Seat<'a>>,
}

impl<'a> Round<'a> {
    #[inline]
    fn deal(&mut self, seat: usize, what: Dealt<'a>) {
        let seat = &mut self.seats[seat];
        seat.hand.push(what);
        if seat.hand.len() == HAND {
            seat.hand_over();
        }
    }
}

fn play<'a>(engine: &mut Engine, take: &Receiver<Hand<'a>>, give_back: &Sender<Hand<'a>>) {
    for mut hand in take {
        for dealt in hand.drain(..) {
            match dealt {
                Dealt::Segment(segment) => engine.dealt_segment(&segment),
                Dealt::Datagram(whole, time) => engine.dealt_datagram(&whole, time),
                Dealt::Secrets(lines) => engine.add_keys(lines, false),
            }
        }
        // The dealer may have dealt its last hand already.
        let _ = give_back.send(hand);
    }
}

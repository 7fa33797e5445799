//! Frames, for generated input.

use bytes::Bytes;
use futures_util::FutureExt as _;

use super::{
    counters::Counters,
    frame::{Accepted, Frame, FrameReader, Kind, Outgoing, Refusal, Side},
    meter::Meter,
};
use crate::{fuzzing::Decoder, internode::Lane};

pub(crate) const DECODERS: [Decoder; 2] = [
    Decoder { name: "frames of calls", memory_factor: 8, again: calls, samples: call_samples },
    Decoder {
        name: "frames of answers",
        memory_factor: 8,
        again: answers,
        samples: answer_samples,
    },
];

fn calls(bytes: &Bytes) -> Result<Bytes, String> {
    again(bytes, Side::Accepter)
}

fn answers(bytes: &Bytes) -> Result<Bytes, String> {
    again(bytes, Side::Dialler)
}

/// The frames before the first that is none.
fn again(bytes: &[u8], side: Side) -> Result<Bytes, String> {
    let payload_bytes_max = Lane::Append.request_bytes_max();
    let mut reader = FrameReader::new(bytes, Accepted { side, payload_bytes_max });
    let meter = Meter::new(Counters::default().lane(Lane::Append).clone());
    let mut frames = Vec::new();
    // Bytes in memory never have to be waited for.
    while let Some(Ok(frame)) = reader.next(&meter).now_or_never() {
        frames.push(frame);
    }
    encoded(frames)
}

fn encoded(frames: Vec<Frame>) -> Result<Bytes, String> {
    let mut outgoing = Outgoing::default();
    for frame in frames {
        outgoing.push(frame);
    }
    let (mut bytes, meter) =
        (Vec::new(), Meter::new(Counters::default().lane(Lane::Append).clone()));
    let written = outgoing.write_to(&mut bytes, &meter).now_or_never();
    written.ok_or("it waits")?.map_err(|error| error.to_string())?;
    Ok(bytes.into())
}

fn one_each(frames: &[Frame]) -> Vec<Bytes> {
    let alone = frames.iter().map(|frame| vec![frame.clone()]);
    let sets = alone.chain([frames.to_vec()]);
    sets.map(|frames| encoded(frames).expect("memory takes everything")).collect()
}

fn call_samples() -> Vec<Bytes> {
    let payload = Bytes::from_static(b"what is asked");
    one_each(&[
        Frame { kind: Kind::Request, call: 1, payload },
        Frame::empty(Kind::Ping),
        Frame::cancel(u64::MAX),
        Frame { kind: Kind::Request, call: 2, payload: Bytes::new() },
    ])
}

fn answer_samples() -> Vec<Bytes> {
    let payload = Bytes::from_static(b"what is answered");
    one_each(&[
        Frame { kind: Kind::Answer, call: 1, payload },
        Frame::empty(Kind::Pong),
        Frame::refusal(2, Refusal::NotBegun, "it does not answer calls yet"),
    ])
}

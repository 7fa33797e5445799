//! What applying entries does: scripts that show each row of the design's lists, failures of the
//! node, and a proof that engines which are fed equal entries hold equal images.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on ends")]

mod complex;
mod determinism;
mod faults;
mod harness;
mod hostile;
mod limits;
mod memory;
mod scripts;
mod speed;

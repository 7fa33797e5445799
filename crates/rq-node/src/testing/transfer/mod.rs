//! Transfers between databases in one process.
//!
//! | module | shows |
//! |---|---|
//! | [`whole`] | what arrives is what was sent, whatever the sender does meanwhile |
//! | [`broken`] | cuts, damage, full disks, other senders |
//! | [`bounds`] | limits of bandwidth, transfers and the WAL |
//! | [`crashes`] | a receiver that dies at any operation on its files |
//! | [`rounds`] | how many rounds a large database takes, and what the later ones send |
//! | [`speed`] | how fast it is, beside a plain copy |

mod bounds;
mod broken;
mod crashes;
mod rounds;
mod speed;
mod whole;
mod world;

//! Behaviour of the log: what it holds, what it refuses, what damage it finds, how it waits.

mod behaviour;
mod damage;
mod faults;

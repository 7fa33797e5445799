//! Files a node must find intact after a power cut: log segments, vote, node identity. Synchronous; knows bytes, index and term only.

//! rqd

//! Who wrote what, when files are copied and restored, and what becomes of changes that a server does not take.

mod device;
mod discarding;
mod forks;
mod forms;
#[path = "../support/log.rs"]
mod log;
mod server;
mod witness;

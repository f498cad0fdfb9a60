//! Admission: what an honest writer makes is taken, and nothing else, whatever order it comes in.

#![expect(clippy::unwrap_used, reason = "a test may panic, in its helpers too")]
#![expect(dead_code, reason = "each test program uses its part of what is shared")]
#![expect(unreachable_pub, reason = "modules are shared between test programs")]

mod bombs;
mod chunk;
mod corpus;
mod fleet;
mod honest;
mod input;
mod mutants;
mod mutation;
mod orders;
mod trial;
mod worse;

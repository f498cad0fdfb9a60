//! Benchmarks live in `benches/`; run them with `cargo benchmarks`. This library is empty.

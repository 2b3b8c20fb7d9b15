//! `longshore pull --timeline FILE`: the picture of a pull.

mod join;
mod model;
mod picture;
mod throughput;

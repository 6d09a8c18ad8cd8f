//! Updates: what may not be installed is refused and changes nothing; what does not work is rolled
//! back without anybody's hand; data outlives both; a kill at any step leaves a working version.
//!
//! Method: the real binary as the base, started through `pillion launch` as a service would be. New
//! releases are the same binary that states another version, or a stand-in that fails in a chosen
//! way; images are made by `cross/image`.

mod durable;
mod formats;
mod killed;
mod refused;
mod site;
mod trials;

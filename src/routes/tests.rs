//! Tests of the module above, as a value.

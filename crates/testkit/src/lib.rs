//! In-memory address spaces and scripted devices for tests of sva and of drivers.

//! The right to make a generation, which one server at a time has.

use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::{Duration, Instant};

use ::redis::{Cmd, Value};

use super::RedisStore;
use super::apply::ROUND_TRIP;
use super::error::RedisError;
use super::nodes::Command;

/// How long a claim holds that is not renewed: after that another server may make what one that died was making.
const HOLDS: Duration = Duration::from_secs(30);

/// How often a claim is renewed.
const RENEWED: Duration = Duration::from_secs(10);

/// `KEYS`: the claim. `ARGV`: its name, and for how many milliseconds it holds from now on. Answers whether it is held.
const RENEW: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('PEXPIRE', KEYS[1], ARGV[2])";

/// `KEYS`: the claim. `ARGV`: its name. Answers whether it was held.
const RELEASE: &str = "\
if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end
return redis.call('DEL', KEYS[1])";

/// The right to make the generation of a plan. Who lost it does not get it again by renewing: another server may have had it
/// meanwhile, and have removed what was written.
#[derive(Debug)]
pub struct Claim {
    name: String,
}

impl RedisStore {
    /// Tries to become the one that makes a generation; `None`: somebody else is. `name`: no other claim has it.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub fn claim(&self, name: String) -> Result<Option<Claim>, RedisError> {
        let mut cmd = ::redis::cmd("SET");
        cmd.arg(self.keys().loading()).arg(&name).arg("NX").arg("PX").arg(HOLDS.as_millis() as u64);
        let is_held = matches!(self.run_on_claim(&cmd)?, Value::Okay);
        Ok(is_held.then_some(Claim { name }))
    }

    /// Has `claim` hold for another while; `false`: it was lost.
    ///
    /// # Errors
    /// If Redis does not answer.
    pub(super) fn renew(&self, claim: &Claim) -> Result<bool, RedisError> {
        let mut cmd = ::redis::cmd("EVAL");
        cmd.arg(RENEW).arg(1).arg(self.keys().loading()).arg(&claim.name);
        cmd.arg(HOLDS.as_millis() as u64);
        Ok(matches!(self.run_on_claim(&cmd)?, Value::Int(1)))
    }

    /// Does `work`, and has `claim` hold until it is done.
    pub(super) fn holding<T>(&self, claim: &Claim, work: impl FnOnce() -> T) -> T {
        thread::scope(|scope| {
            let (done, is_done) = channel::<()>();
            scope.spawn(move || {
                while is_done.recv_timeout(RENEWED) == Err(RecvTimeoutError::Timeout) {
                    // Tried again in time, and asked for before anybody is told to read what was made.
                    let _ = self.renew(claim);
                }
            });
            let result = work();
            drop(done);
            result
        })
    }

    /// Gives `claim` back.
    ///
    /// # Errors
    /// If Redis does not answer; it ends by itself then.
    pub fn release(&self, claim: Claim) -> Result<(), RedisError> {
        let mut cmd = ::redis::cmd("EVAL");
        cmd.arg(RELEASE).arg(1).arg(self.keys().loading()).arg(claim.name);
        self.run_on_claim(&cmd).map(|_| ())
    }

    fn run_on_claim(&self, cmd: &Cmd) -> Result<Value, RedisError> {
        let command = Command::new(&self.keys().loading(), cmd);
        self.nodes.run_one(command, Instant::now() + ROUND_TRIP)
    }
}

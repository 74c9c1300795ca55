//! The operations that need more than one command, each one script over one key.
use std::sync::LazyLock;

use redis::Cmd;

/// What all begin with.
///
/// No script has functions, because Redis would make them anew for each call, at a higher cost than everything else in
/// it. Numbers that commands take are text, because Redis writes a number of Lua as text by the slowest of its ways. `pcall`, because an error raised by `call` loses its code in Redis 6. A value that this crate did not write counts
/// as absent, and an entry past its end is removed. No more than the bytes of the largest entry are read, `ARGV[2]`.
const ARGS: &str = r"
local key, now = KEYS[1], tonumber(ARGV[1])
";

const GET_AND_TOUCH: &str = r"
local value = redis.pcall('GETRANGE', key, '0', ARGV[2])
if type(value) ~= 'string' or #value < 21 or string.byte(value) ~= 1 then return value end
local idle, finish = struct.unpack('>I6I6', value, 10)
if finish <= now then redis.call('DEL', key) return false end
local left = redis.call('PTTL', key)
local most = math.min(idle, finish - now)
if left < 0 or (idle - left >= tonumber(ARGV[3]) and most > left) then redis.call('PEXPIRE', key, most) end
return value
";

const TOUCH: &str = r"
local head = redis.pcall('GETRANGE', key, '0', '20')
if type(head) ~= 'string' then return head end
if #head < 21 or string.byte(head) ~= 1 then return 0 end
local idle, finish = struct.unpack('>I6I6', head, 10)
if finish <= now then redis.call('DEL', key) return 0 end
return redis.call('PEXPIRE', key, math.min(idle, finish - now))
";

const REPLACE: &str = r"
local head = redis.pcall('GETRANGE', key, '0', '20')
if type(head) ~= 'string' then return head end
if #head < 21 or string.byte(head) ~= 1 then return false end
if struct.unpack('>I6', head, 16) <= now then redis.call('DEL', key) return false end
if string.sub(head, 2, 9) ~= ARGV[3] then return redis.call('GETRANGE', key, '0', ARGV[2]) end
local set = redis.pcall('SET', key, ARGV[4], 'PX', ARGV[5])
if set.err then return set end
return 1
";

const DELETE: &str = r"
local head = redis.pcall('GETRANGE', key, '0', '20')
if type(head) ~= 'string' then return head end
if #head < 21 or string.byte(head) ~= 1 then return false end
if struct.unpack('>I6', head, 16) <= now then redis.call('DEL', key) return false end
if string.sub(head, 2, 9) ~= ARGV[3] then return redis.call('GETRANGE', key, '0', ARGV[2]) end
return redis.call('DEL', key)
";

/// The list lives as long as its longest-lived member.
const LIST_END: &str = r"
redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
local last = redis.call('ZRANGE', key, -1, -1, 'WITHSCORES')
if last[2] then redis.call('PEXPIRE', key, tonumber(last[2]) - now) end
return redis.call('ZCOUNT', key, '-inf', '+inf')
";

/// The write that memory may be lacking for goes first: after another one Redis would not look.
const LIST_ADD: &str = r"
local added = redis.pcall('ZADD', key, 'GT', ARGV[2], ARGV[3])
if type(added) ~= 'number' then return added end
";

const LIST_REMOVE: &str = r"
for i = 2, #ARGV do
  local gone = redis.pcall('ZREM', key, ARGV[i])
  if type(gone) ~= 'number' then return gone end
end
";

/// Where a page begins is found by binary search among the members that end at the same time, because `after` may be gone.
/// Names are compared by their bytes, as sorted sets do: Lua's `<` follows the locale of the server.
const LIST_PAGE: &str = r"
local finish, name, limit = tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
local first = redis.pcall('ZCOUNT', key, '-inf', math.max(now, finish - 1))
if type(first) ~= 'number' then return first end
if finish > now then
  local last = redis.call('ZCOUNT', key, '-inf', finish)
  while first < last do
    local middle = math.floor((first + last) / 2)
    local other, at = redis.call('ZRANGE', key, middle, middle)[1], 1
    while at <= #name and string.byte(other, at) == string.byte(name, at) do at = at + 1 end
    if (string.byte(other, at) or -1) <= (string.byte(name, at) or -1) then first = middle + 1 else last = middle end
  end
end
return redis.call('ZRANGE', key, first, first + limit - 1, 'WITHSCORES')
";

/// Calls every command of the other scripts in a way that changes nothing where the key is absent, and returns the names
/// of those that the user may not run. Redis tells a missing permission for a key in other words.
const CHECK: &str = r#"
local commands = {
  {'GETRANGE', key, 0, 0}, {'PTTL', key}, {'PEXPIRE', key, 1}, {'DEL', key}, {'SET', key, '', 'XX', 'PX', 1},
  {'ZADD', key, 'XX', 1, ''}, {'ZREM', key, ''}, {'ZREMRANGEBYSCORE', key, 1, 0}, {'ZRANGE', key, 0, 0},
  {'ZCOUNT', key, 0, 0}
}
local missing = {}
for i = 1, #commands do
  local answer = redis.pcall(unpack(commands[i]))
  local err = type(answer) == 'table' and answer.err or ''
  if string.find(err, "can't run this", 1, true) or string.find(err, 'permissions to run', 1, true) then
    missing[#missing + 1] = commands[i][1]
  end
end
return missing
"#;

pub(super) struct LuaScripts {
    pub(super) check: LuaScript,
    pub(super) get_and_touch: LuaScript,
    pub(super) touch: LuaScript,
    pub(super) replace: LuaScript,
    pub(super) delete: LuaScript,
    pub(super) list_add: LuaScript,
    pub(super) list_remove: LuaScript,
    pub(super) list_page: LuaScript,
}

impl LuaScripts {
    pub(super) fn all() -> &'static Self {
        static ALL: LazyLock<LuaScripts> = LazyLock::new(|| LuaScripts {
            check: LuaScript::new(&[ARGS, CHECK]),
            get_and_touch: LuaScript::new(&[ARGS, GET_AND_TOUCH]),
            touch: LuaScript::new(&[ARGS, TOUCH]),
            replace: LuaScript::new(&[ARGS, REPLACE]),
            delete: LuaScript::new(&[ARGS, DELETE]),
            list_add: LuaScript::new(&[ARGS, LIST_ADD, LIST_END]),
            list_remove: LuaScript::new(&[ARGS, LIST_REMOVE, LIST_END]),
            list_page: LuaScript::new(&[ARGS, LIST_PAGE]),
        });
        &ALL
    }
}

/// An argument of a script.
#[derive(Clone, Copy)]
pub(super) enum ScriptArg<'a> {
    Bytes(&'a [u8]),
    Number(u64),
}

pub(super) struct LuaScript {
    text: String,
    hash: String,
}

impl LuaScript {
    fn new(parts: &[&str]) -> Self {
        let text = parts.concat();
        let hash = redis::Script::new(&text).get_hash().to_owned();
        Self { text, hash }
    }

    pub(super) fn by_hash(&self, key: &str, args: &[ScriptArg<'_>]) -> Cmd {
        invocation("EVALSHA", &self.hash, key, args)
    }

    /// For a server that does not know the script. Runs and keeps it in one step, so that nothing can come between.
    pub(super) fn by_text(&self, key: &str, args: &[ScriptArg<'_>]) -> Cmd {
        invocation("EVAL", &self.text, key, args)
    }
}

fn invocation(name: &str, script: &str, key: &str, args: &[ScriptArg<'_>]) -> Cmd {
    // Room for all of it: the name, the hash or the text, lengths and numbers.
    let bytes: usize = args.iter().map(|arg| arg.length()).sum();
    let mut command = Cmd::with_capacity(args.len() + 4, name.len() + script.len() + key.len() + bytes + 1);
    command.arg(name).arg(script).arg(1).arg(key);
    for arg in args {
        match arg {
            ScriptArg::Bytes(bytes) => command.arg(*bytes),
            ScriptArg::Number(number) => command.arg(*number),
        };
    }
    command
}

impl ScriptArg<'_> {
    /// Bytes that it takes at most.
    const fn length(self) -> usize {
        match self {
            Self::Bytes(bytes) => bytes.len(),
            Self::Number(_) => 20,
        }
    }
}

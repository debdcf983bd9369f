package resilientredis

import "github.com/redis/go-redis/v9"

// A record is a hash, KEYS[1], and the result of a completed one a string of its
// own, KEYS[2], which Redis can free sooner. Times are microseconds since 1970.
//
//	version      1
//	token        of the last claim
//	fingerprint  what the key was claimed for
//	fence        of the last run
//	taken        1 if that run took the key over
//	born         when the key was first claimed
//	lease        when the lease lapses
//	keep         when the key is forgotten
//	result       when the result is: a record that has this field is settled
//
// What a record says is decided by these times alone. Redis expires the keys
// too, but only to free their memory, and never before.

// recordOf begins every script: it reads the clock and the record, and refuses
// one that it does not understand.
const recordOf = `
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
local version, token, fingerprint, fence, taken, born, lease, keep, settled = unpack(redis.call('HMGET', KEYS[1],
  'version', 'token', 'fingerprint', 'fence', 'taken', 'born', 'lease', 'keep', 'result'))
local found = version or redis.call('EXISTS', KEYS[1]) == 1
if found and version ~= '1' then
  return redis.error_reply('VERSION the record is not of a version that this program knows')
end
if found then
  fence, taken, born = tonumber(fence), tonumber(taken), tonumber(born)
  lease, keep, settled = tonumber(lease), tonumber(keep), tonumber(settled)
end
local known = found and now < keep

-- us writes a time, or a fence, with all its digits.
local function us(n) return string.format('%.0f', n) end

-- expire has Redis free a key when its time is over.
local function expire(key, at) redis.call('PEXPIREAT', key, us(math.ceil(at / 1000))) end

-- hold begins the lease at now. No key is forgotten while it is held.
local function hold(length, kept)
  lease = now + length
  keep = math.max(lease, now + kept)
  redis.call('HSET', KEYS[1], 'lease', us(lease), 'keep', us(keep))
  expire(KEYS[1], keep)
end
`

// recordReply ends a script that tells the record. The numbers of the states are
// those of idempotency.State.
const recordReply = `
if not known then return {claimed, 0, '', 0, 0, 0, 0, false} end
local state, left, result = 3, 0, false
if settled then
  result = now < settled and redis.call('GET', KEYS[2])
  state = result and 2 or 4
elseif now < lease then
  state, left = 1, lease - now
end
return {claimed, state, fingerprint, fence, taken, math.max(0, now - born), left, result}
`

// ifHeld ends a script for a holder whose key is not settled: 1 means done, and
// 0 that the lease is lost.
const ifHeld = `
if not known or settled or token ~= ARGV[1] then return 0 end
`

// evenIfFull lets a script go on where the server has no memory left. What runs
// already has had its effect: refusing to write that down would help nobody.
// Claims have to do without, so that a full server takes no new keys; what it
// knows of old ones it still tells.
const evenIfFull = "#!lua flags=allow-oom\n"

var (
	// ARGV: token, fingerprint, lease, keep, take over
	claimScript = redis.NewScript(recordOf + `
local claimed = 0
local mine = known and not settled and token == ARGV[1]
local taking = known and not settled and now >= lease and ARGV[5] == '1' and fingerprint == ARGV[2]
if mine or taking or not known then
  claimed = 1
  if not mine then
    fence = math.max((fence or 0) + 1, now)
    taken, token, fingerprint = taking and 1 or 0, ARGV[1], ARGV[2]
    if not known then
      if found then redis.call('DEL', KEYS[1]) end
      known, born, settled = true, now, nil
    end
    redis.call('HSET', KEYS[1], 'version', '1', 'token', token, 'fingerprint', fingerprint,
      'fence', us(fence), 'taken', taken, 'born', us(born))
  end
  hold(ARGV[3], ARGV[4])
end
` + recordReply)

	// ARGV: token, lease, keep
	renewScript = redis.NewScript(evenIfFull + recordOf + ifHeld + `
hold(ARGV[2], ARGV[3])
return 1
`)

	// ARGV: token, keep of the result, keep of the key, result
	completeScript = redis.NewScript(evenIfFull + recordOf + `
if not known or token ~= ARGV[1] then return 0 end
if settled then return 1 end
keep = now + ARGV[3]
settled = math.min(keep, now + ARGV[2])
redis.call('SET', KEYS[2], ARGV[4])
expire(KEYS[2], settled)
redis.call('HSET', KEYS[1], 'result', us(settled), 'keep', us(keep))
expire(KEYS[1], keep)
return 1
`)

	// ARGV: token
	releaseScript = redis.NewScript(evenIfFull + recordOf + `
if not known then return 1 end
` + ifHeld + `
redis.call('DEL', KEYS[1])
return 1
`)

	// ARGV: token, keep
	abandonScript = redis.NewScript(evenIfFull + recordOf + ifHeld + `
keep = now + ARGV[2]
redis.call('HSET', KEYS[1], 'lease', 0, 'keep', us(keep))
expire(KEYS[1], keep)
return 1
`)

	lookupScript = redis.NewScript(evenIfFull + recordOf + `
local claimed = 0
` + recordReply)
)

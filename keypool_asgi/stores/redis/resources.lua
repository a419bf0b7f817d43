-- Owners of the resources of one kind.
--
-- bodies    hash: id -> what is known of it, as JSON
-- lists     sorted set, all scores 0: one member for each list that a resource is in, which is the list's name and
--           the resource's place; so it is an index that is walked in the order of bytes
-- ages      sorted set: id by the time of its recording
-- left      hash: id -> what remains of a forgotten resource, as JSON
-- left_ages sorted set: id by the time of its forgetting
--
-- Numbers that must come back exactly are kept as text. Texts are never compared here: Lua would ask the locale.

local bodies, lists, ages, left, left_ages = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]

-- Unix time in seconds: the caller's, if it has a clock of its own, or the server's.
local function clock(given)
  if given ~= '' then
    return tonumber(given)
  end
  local time = redis.call('TIME')
  return time[1] + time[2] / 1000000
end

local now = clock(ARGV[1])
-- What was recorded at this time or before is over its retention.
local oldest = now - tonumber(ARGV[2])

local function exactly(number)
  return string.format('%.17g', number)
end

-- Lengths keep names with odd characters in them apart.
local function counted(text)
  return #text .. ':' .. text
end

-- The name of a list: a team's, or everybody's (false); of one status, or of all (false).
local function list_name(team, status)
  return (team and '@' .. counted(team) or '*') .. (status and '=' .. counted(status) or '') .. '|'
end

-- The members of the lists that a resource is in; without a status it is in no list of one.
local function memberships(body)
  local members = {list_name(false, false) .. body.place, list_name(body.team, false) .. body.place}
  if body.status then
    members[3] = list_name(false, body.status) .. body.place
    members[4] = list_name(body.team, body.status) .. body.place
  end
  return members
end

local function keep(id, body)
  redis.call('HSET', bodies, id, cjson.encode(body))
  for _, member in ipairs(memberships(body)) do
    redis.call('ZADD', lists, 0, member)
  end
end

local function drop(id, body)
  redis.call('HDEL', bodies, id)
  redis.call('ZREM', lists, unpack(memberships(body)))
  redis.call('ZREM', ages, id)
end

-- What is known of an id, and whether it is within its retention.
local function look(id)
  local text = redis.call('HGET', bodies, id)
  if not text then
    return nil, false
  end
  local body = cjson.decode(text)
  return body, tonumber(body.recorded) > oldest
end

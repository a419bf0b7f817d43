-- KEYS: records, lists
-- ARGV: limit, team or "" for everybody's, first place or "", first place beyond or ""
-- Returns pairs of place and record, the newest first.

local records, lists = KEYS[1], KEYS[2]
local limit, team, low, high = tonumber(ARGV[1]), ARGV[2], ARGV[3], ARGV[4]
local name = team == '' and '*|' or '@' .. #team .. ':' .. team .. '|'
-- A list's name ends with "|", and "}" is the next character.
local beyond = high == '' and '(' .. name:sub(1, -2) .. '}' or '(' .. name .. high

local found = {}
for _, member in ipairs(redis.call('ZREVRANGEBYLEX', lists, beyond, '[' .. name .. low, 'LIMIT', 0, limit)) do
  local place = member:sub(#name + 1)
  found[#found + 1] = place
  found[#found + 1] = redis.call('HGET', records, place:sub(17))
end
return found

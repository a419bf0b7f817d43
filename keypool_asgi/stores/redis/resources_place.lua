-- ARGV 3...: how long forgotten ones are remembered, id, [team]. Returns the time of creation, as text.

local id, team = ARGV[4], ARGV[5]
local body, fresh = look(id)
if fresh and (not team or body.team == team) then
  return body.created
end
local text = redis.call('HGET', left, id)
if not text then
  return false
end
local gone = cjson.decode(text)
local remembered = tonumber(gone.since) > now - tonumber(ARGV[3])
return remembered and (not team or gone.team == team) and gone.created or false

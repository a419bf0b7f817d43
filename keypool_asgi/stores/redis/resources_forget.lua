-- ARGV 3: id

local id = ARGV[3]
local body, fresh = look(id)
if not fresh then
  return 0
end
drop(id, body)
redis.call('HSET', left, id, cjson.encode({team = body.team, created = body.created, since = exactly(now)}))
redis.call('ZADD', left_ages, exactly(now), id)
return 1

-- ARGV 3...: id, status, summary

local id, status, summary = ARGV[3], ARGV[4], ARGV[5]
local body, fresh = look(id)
if not fresh or (body.status == status and body.summary == summary) then
  return 0
end
if body.status ~= status then
  redis.call('ZREM', lists, unpack(memberships(body)))
end
body.status, body.summary = status, summary
keep(id, body)
return 1

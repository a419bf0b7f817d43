-- ARGV 2...: permit id, new id, its time to live in microseconds

local id, new_id, ttl = ARGV[2], ARGV[3], tonumber(ARGV[4])
local other = read_permit(new_id)
if other then
  -- Asked for again, because the first answer was lost.
  return other.former == redis.sha1hex(id) and redis.call('HEXISTS', permits, id) == 0 and 1 or 0
end
local permit = read_permit(id)
if not permit then
  return 0
end
end_permit(id)
write_permit(new_id, permit.made, redis.sha1hex(id), permit.text, ttl)
return 1

-- What accounts that are nearly full take by blocks that nobody needs any more.
CREATE INDEX block_released ON block (drive, id) WHERE state = 2;
